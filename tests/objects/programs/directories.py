# SPDX-License-Identifier: Apache-2.0
"""Makes epath on `gs://` keep empty directories, as TensorFlow's file system does.

Orbax needs them: who has no TensorFlow gets gcsfs from epath, where a directory that was made does
not exist. Knows the JSON API of a server and gcsfs. Runs under the Python of Orbax 0.8.0.
"""

import os
import urllib.parse
import urllib.request

import fsspec
import fsspec.asyn
import gcsfs


def mark(fs, path):
    bucket, _, name = path.removeprefix("gs://").rstrip("/").partition("/")
    if not name:
        return
    place = urllib.parse.quote(name + "/", safe="")
    base = os.environ["STORAGE_EMULATOR_HOST"]
    url = f"{base}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={place}"
    urllib.request.urlopen(urllib.request.Request(url, data=b"", method="POST")).read()
    fs.invalidate_cache()


def makedirs(fs, path, exist_ok=False):
    path = fs._strip_protocol(path).rstrip("/")
    if fs.exists(path):
        if not exist_ok:
            raise FileExistsError(path)
        return
    parts = path.split("/")
    for end in range(2, len(parts) + 1):
        mark(fs, "/".join(parts[:end]))


def mkdir(fs, path, *args, create_parents=True, **kwargs):
    makedirs(fs, path)


def ls(fs, path, detail=False, **kwargs):
    found = fsspec.asyn.sync(fs.loop, fs._ls, path, detail=True, **kwargs)
    here = fs._strip_protocol(path).rstrip("/")
    found = [one for one in found if one["name"].rstrip("/") != here]
    return found if detail else sorted(one["name"] for one in found)


def install():
    # Nor does it remember lists that others have made out of date.
    for protocol in ("gs", "gcs"):
        fsspec.config.conf[protocol] = {"use_listings_cache": False}
    gcsfs.GCSFileSystem.ls = ls
    gcsfs.GCSFileSystem.makedirs = makedirs
    gcsfs.GCSFileSystem.mkdir = mkdir
