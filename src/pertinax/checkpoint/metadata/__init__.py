# SPDX-License-Identifier: Apache-2.0
"""What is known of a checkpoint without reading its arrays.

Knows where these things are defined. Knows nothing itself.
"""

from pertinax.checkpoint.metadata import checkpoint as checkpoint
from pertinax.checkpoint.metadata import sharding as sharding
from pertinax.checkpoint.metadata import tree as tree
from pertinax.checkpoint.metadata import value as value
from pertinax.checkpoint.metadata.checkpoint import (
    CheckpointMetadataStore as CheckpointMetadataStore,
)
from pertinax.checkpoint.metadata.checkpoint import StepMetadata as StepMetadata
from pertinax.checkpoint.metadata.checkpoint import (
    checkpoint_metadata_store as checkpoint_metadata_store,
)
from pertinax.checkpoint.metadata.sharding import GSPMDShardingMetadata as GSPMDShardingMetadata
from pertinax.checkpoint.metadata.sharding import NamedShardingMetadata as NamedShardingMetadata
from pertinax.checkpoint.metadata.sharding import (
    PositionalShardingMetadata as PositionalShardingMetadata,
)
from pertinax.checkpoint.metadata.sharding import ShardingMetadata as ShardingMetadata
from pertinax.checkpoint.metadata.sharding import (
    SingleDeviceShardingMetadata as SingleDeviceShardingMetadata,
)
from pertinax.checkpoint.metadata.value import ArrayMetadata as ArrayMetadata
from pertinax.checkpoint.metadata.value import Metadata as Metadata
from pertinax.checkpoint.metadata.value import ScalarMetadata as ScalarMetadata
from pertinax.checkpoint.metadata.value import StorageMetadata as StorageMetadata
from pertinax.checkpoint.metadata.value import StringMetadata as StringMetadata
