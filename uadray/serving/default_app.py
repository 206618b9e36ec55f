"""The application with its defaults: what `serve build uadray.serving.default_app:app` prints every option of.

It is not deployed: its bundle and its folder are made up.
"""

from uadray.serving.app import bound
from uadray.serving.config import ServeConfig

app = bound(ServeConfig(out="s3://bucket/endpoint", bundles={"main": "s3://bucket/bundle"}), preload=())
