"""The endpoint: does it answer, why did it scale or not, how full are its batches, what waits."""

from uadray.monitoring import panels as p
from uadray.monitoring import queries as q

UID, NAME = "uadray-endpoint", "endpoint"

STATUS = p.words(
    {
        0: ("unknown", p.GREY), 1: ("deploy failed", p.RED), 2: ("unhealthy", p.RED), 3: ("updating", p.YELLOW),
        4: ("upscaling", p.BLUE), 5: ("downscaling", p.BLUE), 6: ("healthy", p.GREEN),
    }
)  # fmt: skip
"""Of `ray_serve_deployment_status`; uadray's own application has the names of its deployments."""

APPLICATION_STATUS = p.words(
    {
        0: ("unknown", p.GREY), 1: ("deploy failed", p.RED), 2: ("unhealthy", p.RED), 3: ("not started", p.GREY),
        4: ("deleting", p.YELLOW), 5: ("deploying", p.BLUE), 6: ("running", p.GREEN),
    }
)  # fmt: skip

ANSWERS = q.of_serve("ray_serve_num_http_requests_total", 'route!~"/-/.*"')

BY = "application, deployment"


def _does_it_answer() -> list[p.Json]:
    failed = q.of_serve("ray_serve_num_http_requests_total", 'route!~"/-/.*",status_code=~"5.."')
    share = q.ratio(f"{q.rate(failed)} or vector(0)", q.rate(ANSWERS))
    code = q.rate(ANSWERS, "status_code")
    return p.row(
        "Does it answer?",
        p.stat(
            "Application",
            "As Ray Serve says.",
            [p.target(q.highest(q.of_serve("ray_serve_application_status"), "application"), "{{application}}")],
            unit="none", mappings=APPLICATION_STATUS, graph=False, name=True,
        ),
        p.stat(
            "Answers", "A second, without the probes.",
            [p.target(q.rate(ANSWERS), "answers")], unit="reqps", decimals=2,
        ),
        p.stat(
            "Failed answers",
            "Share with a code of 500 and above.", [p.target(share, "failed")], unit="percentunit",
            decimals=2, thresholds=p.steps((0.001, p.YELLOW), (0.01, p.RED)),
        ),
        p.stat(
            "Jobs",
            "Slides ordered that wait or are at work.",
            [p.target(q.total(q.of_screening("uadray_ledger_jobs"), "state"), "{{state}}")], unit="none", name=True,
        ),
        p.stat(
            "Tiles",
            "Scored a second, by all replicas.",
            [p.target(q.rate(q.of_run("uadray_tiles_total", 'stage="serve_score"')), "tiles")],
            unit="tiles/s", decimals=0,
        ),
        p.stat(
            "Refused",
            "Answers of 429 and 503 a second: a queue is full. Raise max_replicas, or max_queued_requests.",
            [p.target(_codes("429|503"), "refused")], unit="reqps", decimals=2, thresholds=p.steps((0.01, p.YELLOW)),
        ),
        p.time_series(
            "Answers by code",
            "A second, without the probes. 202: a job was taken. 401, 403: a token or an address is not allowed. 429, "
            "503: full. 5xx: errors of the endpoint.",
            [p.target(code, "{{status_code}}")], unit="reqps", is_stacked=True,
            overrides=[p.named("2..", color=_fixed(p.GREEN)), p.named("5..", color=_fixed(p.RED))],
        ),
        p.table(
            "Deployments",
            "What Ray Serve says of each, and its replicas that are healthy.",
            [
                p.target(q.highest(q.of_serve("ray_serve_deployment_status"), "deployment"), ""),
                p.target(q.total(q.of_serve("ray_serve_deployment_replica_healthy"), "deployment"), ""),
            ],
            columns={"deployment": "deployment", "Value #A": "status", "Value #B": "healthy replicas"},
            overrides=[{"matcher": {"id": "byName", "options": "status"}, "properties": [_mapped(STATUS)]}],
        ),
    )  # fmt: skip


def _codes(pattern: str) -> str:
    where = f'route!~"/-/.*",status_code=~"{pattern}"'
    return f"{q.rate(q.of_serve('ray_serve_num_http_requests_total', where))} or vector(0)"


def _why_did_it_scale() -> list[p.Json]:
    one = 'deployment=~"$Deployment"'
    requests = q.total(q.of_serve("ray_serve_autoscaling_total_requests", one), BY)
    each = q.highest(q.of_serve("ray_serve_autoscaling_target_ongoing_requests", one), BY)
    delay = q.of_serve("ray_serve_autoscaling_replica_metrics_delay_ms_bucket")
    starting = q.of_serve("ray_serve_replica_startup_latency_ms_bucket")
    return p.row(
        "Why did it scale, or not?",
        p.time_series(
            "$Deployment: replicas",
            "`wanted`: what the policy asks for, before the bounds. `target`: after bounds and delays. `healthy`: what "
            "there is. `by requests`: requests over those that a replica shall have. Wanted above target: a bound or a "
            "delay holds it. Target above healthy: no room on the cluster, or slow starts.",
            [
                p.target(q.highest(q.of_serve("ray_serve_autoscaling_desired_replicas", one), BY), "wanted"),
                p.target(q.highest(q.of_serve("ray_serve_autoscaling_target_replicas", one), BY), "target"),
                p.target(q.total(q.of_serve("ray_serve_deployment_replica_healthy", one), BY), "healthy"),
                p.target(q.ratio(requests, each), "by requests"),
            ],
            unit="none", calcs=("lastNotNull", "max"), size=(24, 8), repeat="Deployment",
            overrides=[p.named("by requests", **p.line(p.GREY))],
        ),
        p.time_series(
            "Requests that the autoscaler sees",
            "At work and waiting, by deployment.",
            [p.target(q.total(q.of_serve("ray_serve_autoscaling_total_requests"), BY), "{{deployment}}")], unit="none",
        ),
        p.time_series(
            "Replicas' use",
            "Share of a replica's room for requests at work that is used, on average over replicas. Near 100 % with "
            "requests waiting: more replicas would help.",
            [p.target(f"avg by ({BY}) ({q.of_serve('ray_serve_replica_utilization_percent')})", "{{deployment}}")],
            unit="percent", most=100,
        ),
        p.time_series(
            "Start of a replica",
            "90 % of all starts so far were faster, by deployment. This long after a decision to scale comes the help.",
            [p.target(f"histogram_quantile(0.9, {q.total(starting, f'le, {BY}')})", "{{deployment}}")], unit="ms",
        ),
        p.time_series(
            "Delay of the autoscaler's figures",
            "99 % arrive faster. Seconds here make every decision late; the controller is busy.",
            [p.target(q.quantile(0.99, delay, BY), "{{deployment}}")], unit="ms",
        ),
    )  # fmt: skip


def _batches() -> list[p.Json]:
    fill = q.ratio(
        q.rate(q.of_run("uadray_batch_tiles_total"), "stage"), q.rate(q.of_run("uadray_batch_room_total"), "stage")
    )
    waited = q.of_serve("ray_serve_batch_wait_time_ms_bucket")
    worked = q.of_serve("ray_serve_batch_execution_time_ms_bucket")
    waiting = q.of_serve("ray_serve_batch_queue_length")
    return p.row(
        "How full are the batches?",
        p.time_series(
            "Batch fill",
            "Share of the places of a batch that hold a tile, by stage. Low with many requests: they are small, and "
            "join too seldom.",
            [p.target(fill, "{{stage}}")], unit="percentunit", most=1, size=(8, 8),
        ),
        p.time_series(
            "Time of a batch",
            "90 % wait less to be joined, and are computed in less, by deployment.",
            [
                p.target(q.quantile(0.9, waited, "deployment"), "{{deployment}}: waits"),
                p.target(q.quantile(0.9, worked, "deployment"), "{{deployment}}: computed"),
            ],
            unit="ms", size=(8, 8),
        ),
        p.time_series(
            "Requests that wait to be joined",
            "In all replicas of a deployment.",
            [p.target(q.total(waiting, "deployment"), "{{deployment}}")], unit="none", size=(8, 8),
        ),
    )  # fmt: skip


def _work() -> list[p.Json]:
    states = q.of_screening("uadray_ledger_jobs")
    found = q.of_serve("ray_serve_request_router_fulfillment_time_ms_bucket")
    return p.row(
        "What waits, and what is at work?",
        p.time_series(
            "Jobs",
            "Slides ordered, by state, as the folder says, and in all, as the endpoint says. Waiting that grows: more "
            "is ordered than done.",
            [
                p.target(q.total(states, "screening, state"), "{{screening}}: {{state}}"),
                p.target(q.total(q.of_run("uadray_queue_length", 'queue="to_read"')), "in all"),
            ],
            unit="slides",
        ),
        p.time_series(
            "Tiles a second, by stage",
            "Of all replicas. The stages of one bundle follow each other; the slowest is the limit.",
            [p.target(q.rate(q.of_run("uadray_tiles_total"), "stage"), "{{stage}}")], unit="tiles/s",
        ),
        p.time_series(
            "Processes at work, by stage",
            "On average, replicas that compute.",
            [p.target(q.rate(q.of_run("uadray_seconds_total"), "stage"), "{{stage}}")],
            unit="none", decimals=2, is_stacked=True,
        ),
        p.time_series(
            "Wait for a replica",
            "Requests between deployments: 90 % find a replica faster, by deployment. Seconds here: it has too few.",
            [p.target(q.quantile(0.9, found, "deployment"), "{{deployment}}")], unit="ms",
        ),
        p.time_series(
            "Slides, by stage of their work",
            "Slide jobs: processes at work on each stage, as on `why is it slow`.",
            [p.target(q.rate(q.of_run("uadray_stage_seconds_total"), "stage"), "{{stage}}")],
            unit="none", decimals=2, is_stacked=True, legend="right",
        ),
    )  # fmt: skip


def _health() -> list[p.Json]:
    checks = q.of_serve("ray_serve_health_check_latency_ms_bucket")
    failures = q.of_serve("ray_serve_health_check_failures_total")
    none = f"0 * {q.total(q.of_serve('ray_serve_deployment_replica_healthy'), 'deployment')}"
    starts = q.of_serve("ray_serve_deployment_replica_starts_total")
    return p.row(
        "Are the replicas well?",
        p.time_series(
            "Health checks",
            "99 % answer faster, by deployment; beyond health_check_timeout_s a replica is replaced.",
            [p.target(q.quantile(0.99, checks, BY), "{{deployment}}")], unit="ms", size=(8, 8),
        ),
        p.time_series(
            "Failed health checks",
            "In the last five minutes, by deployment.",
            [p.target(f"sum by (deployment) (increase({failures}[5m])) or {none}", "{{deployment}}")],
            unit="none", size=(8, 8),
        ),
        p.time_series(
            "Starts of replicas",
            "In the last five minutes, by deployment. Without a change of the target, a replica has died.",
            [p.target(f"sum by (deployment) (increase({starts}[5m]))", "{{deployment}}")], unit="none", size=(8, 8),
        ),
    )  # fmt: skip


def _fixed(color: str) -> p.Json:
    return {"fixedColor": color, "mode": "fixed"}


def _mapped(mappings: list[p.Json]) -> p.Json:
    return {"id": "mappings", "value": mappings}


def make() -> p.Json:
    """The dashboard's JSON."""
    return p.dashboard(
        UID, "uadray: endpoint", "Does it answer, why did it scale or not, how full are its batches, what waits?",
        [_does_it_answer(), _why_did_it_scale(), _batches(), _work(), _health()],
        variables=[
            q.datasource_variable(), *q.cluster_variables(), q.application_variable(), q.deployment_variable(),
            q.run_variable("serve"), q.screening_variable(),
        ],
        links=[
            q.own_links(), q.ray_link("rayServeDashboard", "Ray: Serve, latency, queues"),
            q.ray_link("rayServeDeploymentDashboard", "Ray: replicas, memory"),
        ],
        hours=1,
    )  # fmt: skip
