"""Training: does it learn, how fast, what does it wait for."""

from uadray.monitoring import panels as p
from uadray.monitoring import queries as q

UID, NAME = "uadray-training", "training"

IMAGES = q.of_run("uadray_tiles_total", 'stage="train_step"')

SECONDS = q.of_run("uadray_seconds_total", 'stage="train_step"')

WAITS = q.of_run("uadray_wait_seconds_total", 'on="data"')


def _waits(by: str = "") -> str:
    return q.ratio(q.rate(WAITS, by), q.rate(SECONDS, by))


def _gpu(by: str = "") -> str:
    at_work = q.rate(q.of_run("uadray_gpu_seconds_total", 'stage="train_step"'), by)
    return q.ratio(at_work, q.total(q.of_run("uadray_cores", 'kind="gpu"'), by))


def _does_it_learn() -> list[p.Json]:
    info = "run, detector, version"
    return p.row(
        "Does it learn?",
        p.stat(
            "Step",
            "The furthest of the runs chosen.",
            [p.target(q.highest(q.of_run("uadray_train_step")), "step")], unit="none",
        ),
        p.stat(
            "Images", "A second, by all workers.",
            [p.target(q.rate(IMAGES), "images")], unit="images/s", decimals=0,
        ),
        p.stat(
            "Waits for data",
            "Share of the workers' time. Above some per cent the tiles come too slowly: more cores for reading, or a "
            "tile set instead of slides.",
            [p.target(_waits(), "waits")], unit="percentunit", decimals=1,
            thresholds=p.steps((0.05, p.YELLOW), (0.2, p.RED)),
        ),
        p.stat("GPUs at work", "Share of their time; no data without.", [p.target(_gpu(), "GPU")], unit="percentunit"),
        p.stat(
            "FID",
            "Distance of generated from real tiles, of the generator that is best so far; smaller is better. No data "
            "for detectors without a generator.",
            [p.target(f"min({q.of_run('uadray_train_fid')})", "FID")], unit="none", decimals=1,
        ),
        p.stat(
            "Errors",
            "Tiles that could not be learned from, in the time range.",
            [p.target(q.gain(q.of_run("uadray_errors_total", 'stage="train_step"')), "tiles")], unit="tiles",
            thresholds=p.steps((1, p.RED), base=p.GREEN), graph=False,
        ),
        p.time_series(
            "Losses",
            "By run and part. A critic that leaves for infinity, or a loss of exactly 0, is a training that has "
            "failed.",
            [p.target(q.highest(q.of_run("uadray_train_loss"), "run, loss"), "{{run}}: {{loss}}")],
            unit="none", least=None, calcs=("lastNotNull", "min", "max"), size=(16, 10),
        ),
        p.time_series(
            "FID",
            "By run; smaller is better.",
            [p.target(q.highest(q.of_run("uadray_train_fid"), "run"), "{{run}}")], unit="none",
            calcs=("lastNotNull", "min"), size=(8, 10),
        ),
        p.table(
            "Runs",
            "What each trains, and with which version.",
            [p.target(q.total(q.of_run("uadray_run_info", 'kind="train"'), info), "{{run}}")],
            columns={name.strip(): name.strip() for name in info.split(",")}, size=(24, 5),
        ),
    )  # fmt: skip


def _how_fast() -> list[p.Json]:
    return p.row(
        "How fast, and what does it wait for?",
        p.time_series(
            "Images a second",
            "By run, all its workers together.", [p.target(q.rate(IMAGES, "run"), "{{run}}")], unit="images/s",
        ),
        p.time_series(
            "Waits for data",
            "Share of the workers' time, by run. Ray's dashboard of Train has the times of reports and checkpoints.",
            [p.target(_waits("run"), "{{run}}")], unit="percentunit", most=1,
        ),
        p.time_series(
            "Step",
            "By run. Flat: it stands. A step back: it was started again from its last checkpoint.",
            [p.target(q.highest(q.of_run("uadray_train_step"), "run"), "{{run}}")], unit="none", calcs=("lastNotNull",),
        ),
        p.time_series(
            "GPUs at work",
            "Share of the time, by run.", [p.target(_gpu("run"), "{{run}}")], unit="percentunit", most=1,
        ),
    )  # fmt: skip


def make() -> p.Json:
    """The dashboard's JSON."""
    return p.dashboard(
        UID, "uadray: training", "Does a training learn, how fast is it, what does it wait for?",
        [_does_it_learn(), _how_fast()],
        variables=[q.datasource_variable(), *q.cluster_variables(), q.run_variable("train")],
        links=[q.own_links(), q.ray_link("rayTrainDashboard", "Ray: Train, workers, GPU memory")],
    )  # fmt: skip
