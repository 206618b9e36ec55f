"""What an endpoint is configured with: the arguments of `app.build_app`. `deployment_file` is the file around it."""

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from uadray.config import Config

MAX_TILES = 4096
"""No configuration admits more tiles in a request: what is more is a batch, and belongs to `uadray score`."""

SEARCH_SHARE = 0.9
"""Of a request's time, for a search where nobody says: the rest is for its images and for the answer."""

BundleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""What requests call a bundle."""


class StageConfig(Config):
    """Replicas of one deployment, and what each asks of the cluster.

    Attributes:
        replicas: how many there are, or the least of them where `max_replicas` is given; 0 scales to none when idle.
        max_replicas: scale up to this many with the load; None keeps `replicas`.
        cpus: of each replica; also its torch threads, rounded down, at least one.
        gpus: of each replica.
        batch_tiles: in one forward pass here; None takes that of the endpoint.
    """

    replicas: int = Field(default=1, ge=0)
    max_replicas: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1, ge=0)
    gpus: float = Field(default=0, ge=0)
    batch_tiles: int | None = Field(default=None, ge=1, le=MAX_TILES)

    @model_validator(mode="after")
    def _ordered(self) -> "StageConfig":
        if self.most < max(1, self.replicas):
            raise ValueError(f"replicas {self.replicas} to {self.most}: one at least must be possible, and no fewer")
        return self

    @property
    def most(self) -> int:
        """The most replicas that there can be."""
        return self.replicas if self.max_replicas is None else self.max_replicas


class ServeConfig(Config):
    """One endpoint.

    Attributes:
        out: folder or s3:// URI of jobs, bundles and results. It is the queue, and opens like any screening.
        bundles: name -> folder or s3:// URI. The first scores where a request names none. Others may be added, and
            these swapped, while requests run.
        slides: folders and s3:// prefixes that slides and manifests may be read from; nothing else is.
        bundle_sources: those that bundles may be added from; what is named in `bundles` may be read anyway.
        tokens: file of tokens, see `tokens`; it is read again when it changes. None takes `UADRAY_TOKEN`.
        insecure: without any token; only this machine is answered then.
        one_replica: map, reconstruct and score in one deployment (`detector`), which saves the two hops between them;
            else each is a deployment that scales by itself.
        ingress: reads requests and decodes images.
        encoder: the stage `map`, deployed as `MapStage`.
        generator: the stage `reconstruct`, deployed as `ReconstructStage`.
        scorer: the stage `score`, deployed as `ScoreStage`.
        detector: the three of them where `one_replica` is set, deployed as `AllStages`.
        slide: `SlideStage`: with `slides_per_replica` its most replicas say how many slides run at once; others wait.
        slides_per_replica: that a replica of `SlideStage` is at: while one is read or committed another is scored.
        view: `ViewStage`: deep zoom and layers for the page.
        bundles_per_replica: that a stage keeps loaded; the one used longest ago is dropped for another.
        batch_tiles: in one forward pass of a stage; None takes 64 on a CPU, 128 on a GPU, and fewer beyond 256 px.
        max_tiles_per_request: more are refused (413).
        max_body_bytes: a larger body is refused (413) before it is read.
        max_image_px: an image whose header claims a longer side is not decoded.
        max_pixels_per_request: images whose headers claim more pixels together are refused (413) before one is decoded.
        max_pixels_in_flight: of all requests of an ingress replica together, while they are decoded; more wait.
        max_bytes_in_flight: of all bodies in an ingress replica; more are refused (429).
        max_ongoing_requests: that an ingress replica works on at a time.
        max_queued_requests: that wait for a stage; more are refused (429).
        max_waiting_slides: jobs in the queue; more are refused (429).
        request_timeout_s: from a request's headers to its answer; then 504, and its work stops.
        map_timeout_s: of it, for the stage `map` of a detector that searches for its latents (AnoGAN, projection): a
            request with more tiles than can be searched for in that time is refused (413) after the first steps, and
            told how many can; None takes nine tenths of `request_timeout_s`. Slides have no limit.
    """

    out: str
    bundles: dict[BundleName, str] = Field(min_length=1)
    slides: tuple[str, ...] = ()
    bundle_sources: tuple[str, ...] = ()
    tokens: str | None = None
    insecure: bool = False
    one_replica: bool = True
    ingress: StageConfig = StageConfig(cpus=0)
    encoder: StageConfig = StageConfig()
    generator: StageConfig = StageConfig()
    scorer: StageConfig = StageConfig()
    detector: StageConfig = StageConfig()
    slide: StageConfig = StageConfig(cpus=0)
    view: StageConfig = StageConfig(cpus=0)
    slides_per_replica: int = Field(default=2, ge=1, le=16)
    bundles_per_replica: int = Field(default=3, ge=1, le=64)
    batch_tiles: int | None = Field(default=None, ge=1, le=MAX_TILES)
    max_tiles_per_request: int = Field(default=256, ge=1, le=MAX_TILES)
    max_body_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_image_px: int = Field(default=4096, ge=8, le=8192)
    max_pixels_per_request: int = Field(default=64 * 2**20, ge=64, le=2**30)
    max_pixels_in_flight: int = Field(default=128 * 2**20, ge=64, le=2**32)
    max_bytes_in_flight: int = Field(default=256 * 2**20, ge=1024)
    max_ongoing_requests: int = Field(default=256, ge=1)
    max_queued_requests: int = Field(default=32, ge=1)
    max_waiting_slides: int = Field(default=100_000, ge=1)
    request_timeout_s: float = Field(default=60, gt=0)
    map_timeout_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "ServeConfig":
        if self.max_pixels_per_request > self.max_pixels_in_flight:
            raise ValueError("max_pixels_per_request is more than max_pixels_in_flight")
        if self.max_body_bytes > self.max_bytes_in_flight:
            raise ValueError("max_body_bytes is more than max_bytes_in_flight")
        if self.map_timeout_s is not None and self.map_timeout_s > self.request_timeout_s:
            raise ValueError("map_timeout_s is more than request_timeout_s, of which it is a part")
        return self

    @property
    def search_timeout_s(self) -> float:
        """See `map_timeout_s`."""
        return SEARCH_SHARE * self.request_timeout_s if self.map_timeout_s is None else self.map_timeout_s

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The deployments that score, by the field that configures each."""
        if self.one_replica:
            return {"detector": self.detector}
        return {"encoder": self.encoder, "generator": self.generator, "scorer": self.scorer}

    @property
    def counted(self) -> tuple[str, ...]:
        """Names under which the deployments that score count, in their order."""
        return ("serve_score",) if self.one_replica else ("serve_map", "serve_reconstruct", "serve_score")

    @property
    def default_bundle(self) -> str:
        """The name of the bundle that scores where a request names none."""
        return next(iter(self.bundles))
