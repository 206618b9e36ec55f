"""What the exporter reads and what the work costs, as `configs/monitoring/exporter.yaml` says.

A ledger knows how long one reader and one scorer were at work on each slide; times the cores of each and their price
that is what the slide costs. What it does not know: nodes that were up and idle, and what the object store bills. So
the sum is what the work costs at full use, and less than the bill.
"""

from pydantic import Field, NonNegativeFloat, field_validator

from uadray.config import Config


class Prices(Config):
    """What the work costs.

    Attributes:
        currency: of all prices.
        cpu_hour: of one core.
        gpu_hour: of one GPU.
        reader_cpus: cores that one reader takes.
        scorer_cpus: cores that one scorer takes.
        scorer_gpus: GPUs that one scorer takes.
        per_slide: whatever else a slide costs.
    """

    currency: str = Field(default="EUR", pattern="^[A-Z]{3}$")
    cpu_hour: NonNegativeFloat = Field(allow_inf_nan=False)
    gpu_hour: NonNegativeFloat = Field(default=0.0, allow_inf_nan=False)
    reader_cpus: NonNegativeFloat = Field(default=1.0, allow_inf_nan=False)
    scorer_cpus: NonNegativeFloat = Field(default=1.0, allow_inf_nan=False)
    scorer_gpus: NonNegativeFloat = Field(default=0.0, allow_inf_nan=False)
    per_slide: NonNegativeFloat = Field(default=0.0, allow_inf_nan=False)


class ExporterConfig(Config):
    """What the exporter reads.

    Attributes:
        refresh_s: seconds between readings of a screening.
        screenings: name -> folder or s3:// URI.
        calibrations: id or name of a bundle -> where it lies, for screenings whose record does not say, or says an old
            place.
        prices: without them nothing is said of cost.
        budgets: name of a screening -> what it may cost in all.
    """

    refresh_s: float = Field(default=30.0, ge=1, le=3600)
    screenings: dict[str, str] = Field(default={}, max_length=100)
    calibrations: dict[str, str] = Field(default={}, max_length=1000)
    prices: Prices | None = None
    budgets: dict[str, NonNegativeFloat] = Field(default={}, max_length=100)

    @field_validator("screenings")
    @classmethod
    def _names_are_plain(cls, screenings: dict[str, str]) -> dict[str, str]:
        for name in screenings:
            if not name or len(name) > 100 or not name.isprintable():
                raise ValueError(f"{name[:100]!r} cannot name a screening")
        return screenings


def cost(prices: Prices, *, slides: int, read_seconds: float, score_seconds: float) -> float:
    """What so many slides cost that took so long to read and to score.

    >>> cost(Prices(cpu_hour=0.1, gpu_hour=2, scorer_gpus=0.5), slides=9, read_seconds=3600, score_seconds=7200)
    2.3
    """
    reader_hour = prices.reader_cpus * prices.cpu_hour
    scorer_hour = prices.scorer_cpus * prices.cpu_hour + prices.scorer_gpus * prices.gpu_hour
    return round((read_seconds * reader_hour + score_seconds * scorer_hour) / 3600 + slides * prices.per_slide, 9)
