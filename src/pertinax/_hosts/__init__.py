# SPDX-License-Identifier: Apache-2.0
"""The other processes of the job: who they are, and how to agree with them."""

from pertinax._hosts.alone import Alone, Monologue
from pertinax._hosts.contract import Hosts, Round
from pertinax._hosts.handover import handed_over
from pertinax._hosts.job import job_share, this_job
from pertinax._hosts.preemption import Preemption
from pertinax._hosts.verdict import decide_for_all
from pertinax._plan.topology import Topology

__all__ = [
    "Alone",
    "Hosts",
    "Monologue",
    "Preemption",
    "Round",
    "Topology",
    "decide_for_all",
    "handed_over",
    "job_share",
    "this_job",
]
