"""Why is it slow: where the time goes, what the machines could do, who waits for whom."""

from uadray.monitoring import panels as p
from uadray.monitoring import queries as q

UID, NAME = "uadray-slowness", "slowness"

SECONDS = q.of_run("uadray_stage_seconds_total")

BUSY = q.rate(SECONDS)

CORES = q.total(q.of_run("uadray_cores", 'kind="cpu"'))

SCORED = q.rate(q.of_run("uadray_tiles_total", 'stage="screen_score"'))

LIMIT = q.ratio(f"{SCORED} * {CORES}", BUSY)


def _where() -> list[p.Json]:
    slides = q.gain(q.of_run("uadray_slides_total"))
    each = q.ratio(q.gain(SECONDS, "stage"), slides, on="")
    return p.row(
        "Where does the time go?",
        p.stat(
            "Tiles scored", "A second, of all runs chosen.",
            [p.target(SCORED, "scored")], unit="tiles/s", decimals=0,
        ),
        p.stat(
            "Limit",
            "Tiles a second that the same cores would score at the present cost of a tile, were they never idle.",
            [p.target(LIMIT, "limit")], unit="tiles/s", decimals=0,
        ),
        p.stat(
            "Share of the limit",
            "Near 100 %: more cores make it faster, or a cheaper stage. Far below: something waits; the third row says "
            "for what.",
            [p.target(q.ratio(BUSY, CORES), "share")], unit="percentunit", decimals=0,
            thresholds=p.steps((0.4, p.YELLOW), (0.7, p.GREEN), base=p.RED),
        ),
        p.stat(
            "Cores",
            "Cores and GPUs that the runs may use.",
            [p.target(q.total(q.of_run("uadray_cores"), "kind"), "{{kind}}")], unit="none", name=True, graph=False,
        ),
        p.stat(
            "A slide costs",
            "Seconds of one core for a slide, all stages, over the time range.",
            [p.target(q.ratio(q.gain(SECONDS), slides), "seconds")], unit="s", decimals=1, graph=False,
        ),
        p.stat(
            "GPUs at work",
            "Share of the time of the GPUs; no data where there is none.",
            [p.target(_gpu_share(), "GPU")], unit="percentunit", decimals=0,
        ),
        p.time_series(
            "Processes at work, by stage",
            "Each second, how many processes are at work on a stage, on average; the dashed line is the cores. The "
            "widest band is the stage to make cheaper.",
            [p.target(q.rate(SECONDS, "stage"), "{{stage}}"), p.target(CORES, "cores")],
            unit="none", decimals=2, is_stacked=True, legend="right", size=(16, 10),
            overrides=[p.named("cores", **p.line())],
        ),
        p.bars(
            "Seconds a slide, by stage",
            "Over the time range, of one process.",
            [p.target(f"sort_desc({each})", "{{stage}}", instant=True)],
            unit="s", decimals=2, size=(8, 10),
        ),
    )  # fmt: skip


def _gpu_share() -> str:
    at_work = q.rate(q.of_run("uadray_gpu_seconds_total", 'stage="screen_score"'))
    return q.ratio(at_work, q.total(q.of_run("uadray_cores", 'kind="gpu"')))


def _limit() -> list[p.Json]:
    read = q.rate(q.of_run("uadray_tiles_total", 'stage="screen_read"'))
    return p.row(
        "What could it do?",
        p.time_series(
            "Limit against actual",
            "Tiles read and scored a second, and what all cores would score, were they never idle (dashed). Reading "
            "above scoring fills a queue; scoring cannot be above reading for long.",
            [p.target(read, "read"), p.target(SCORED, "scored"), p.target(LIMIT, "limit")],
            unit="tiles/s", overrides=[p.named("limit", **p.line(p.BLUE))],
        ),
        p.time_series(
            "Cost of a tile, by stage",
            "Seconds of a process for a tile. `read` that grows: the store or the network has become slower. `decode`, "
            "`resample`: other slides than before. `score`: more processes than cores.",
            [p.target(q.ratio(q.rate(SECONDS, "stage"), SCORED, on=""), "{{stage}}")], unit="s", is_stacked=True,
            legend="right", calcs=("lastNotNull",),
        ),
    )  # fmt: skip


def _who_waits() -> list[p.Json]:
    fill = q.ratio(
        q.rate(q.of_run("uadray_batch_tiles_total"), "stage"), q.rate(q.of_run("uadray_batch_room_total"), "stage")
    )
    return p.row(
        "Who waits for whom?",
        p.time_series(
            "Processes that wait",
            "`data`: scorers without tiles, so reading is too slow. `room`: readers whose tiles nobody takes, so "
            "scoring is too slow. Both small: the cores are the limit.",
            [p.target(q.rate(q.of_run("uadray_wait_seconds_total"), "on"), "for {{on}}")], unit="none", decimals=2,
        ),
        p.time_series(
            "Queues",
            "Slides or blocks of tiles before and in each step. The queue that is long stands before the step that is "
            "slow.",
            [p.target(q.total(q.of_run("uadray_queue_length"), "queue"), "{{queue}}")], unit="none",
        ),
        p.time_series(
            "Batch fill",
            "Share of the places of a batch that hold a tile. Low: small slides, or batches that are sent off too "
            "early.",
            [p.target(fill, "{{stage}}")], unit="percentunit", most=1,
        ),
        p.time_series(
            "GPUs at work",
            "Share of the time. Far below 100 % with `data` waiting: readers do not keep up with the GPU.",
            [p.target(_gpu_share(), "GPU")], unit="percentunit", most=1,
        ),
    )  # fmt: skip


def _bytes() -> list[p.Json]:
    requests = q.of_run("uadray_cache_requests_total")
    hits = q.rate(q.of_run("uadray_cache_requests_total", 'outcome="hit"'))
    return p.row(
        "What comes over the network, and again?",
        p.time_series(
            "Bytes a second, by stage",
            "Pixels that a stage has handled. The network itself is on Ray's dashboard.",
            [p.target(q.rate(q.of_run("uadray_bytes_total"), "stage"), "{{stage}}")], unit="Bps",
        ),
        p.time_series(
            "Copies on local disks",
            "Share of opened slides whose copy lay there already. Low in a second pass: the cache is smaller than what "
            "is read (UADRAY_CACHE_BYTES).",
            [p.target(q.ratio(hits, q.rate(requests)), "hits")], unit="percentunit", most=1,
        ),
        p.time_series(
            "Cache, bytes a second",
            "`evicted` near `miss` for long: the cache thrashes; each slide is fetched again.",
            [p.target(q.rate(q.of_run("uadray_cache_bytes_total"), "outcome"), "{{outcome}}")], unit="Bps",
        ),
        p.time_series(
            "Retries an hour, by cause",
            "Work that was done in vain, since the system failed.",
            q.with_total(q.of_run("uadray_retries_total"), "cause"), unit="slides/h",
        ),
    )  # fmt: skip


def make() -> p.Json:
    """The dashboard's JSON."""
    return p.dashboard(
        UID, "uadray: why is it slow",
        "Where the time of a screening goes, what the machines could do, who waits for whom.",
        [_where(), _limit(), _who_waits(), _bytes()],
        variables=[q.datasource_variable(), *q.cluster_variables(), q.run_variable("screen")],
        links=[
            q.own_links(), q.ray_link("rayDefaultDashboard", "Ray: nodes, CPU, memory, disk, network"),
            q.ray_link("rayDataDashboard", "Ray: Data"),
        ],
        hours=1,
    )  # fmt: skip
