# SPDX-License-Identifier: Apache-2.0
"""Object stores: S3, GCS, Azure and buckets in memory, through `obstore`.

Knows keys, requests, and the protocol of design note 004 by which a checkpoint appears without a
rename. Knows nothing of arrays, formats or steps. `urls` finds a bucket, `requests` talks to it,
`replies` says what went wrong, `store` makes a store of it, `writer` and `reader` carry its files,
`attempts` says who may write, `publishing` makes checkpoints appear and vanish, `listed` answers
from one listing.
"""
