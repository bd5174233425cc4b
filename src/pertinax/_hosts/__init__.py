"""The other processes of the job: who they are, and how to agree with them."""

from pertinax._hosts.alone import Alone
from pertinax._hosts.contract import Hosts, Topology
from pertinax._hosts.job import this_job

__all__ = ["Alone", "Hosts", "Topology", "this_job"]
