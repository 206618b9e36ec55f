{{- define "uadray.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.security.uid }}
runAsGroup: {{ .Values.security.uid }}
fsGroup: {{ .Values.security.uid }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "uadray.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Where the store is; who asks it comes from a Secret or from the pod's own identity. */ -}}
{{- define "uadray.storeEnv" -}}
{{- with .Values.store.endpointUrl }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.store.region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "uadray.envFrom" -}}
{{- with .Values.secrets.store }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- /* (dict root gpus serve) -> environment of every Ray process of a node */ -}}
{{- define "uadray.rayEnv" -}}
{{- $root := .root -}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
# a node that is lost is noticed after 5 x (2 + 3) s
- {name: RAY_health_check_period_ms, value: "2000"}
- {name: RAY_health_check_timeout_ms, value: "3000"}
- {name: RAY_health_check_failure_threshold, value: "5"}
# how long a job's driver may take to give its slides back before it is killed
- {name: RAY_JOB_STOP_WAIT_TIME_S, value: "60"}
- {name: UADRAY_CACHE, value: /var/cache/uadray}
- {name: HOME, value: /tmp}
{{- if not .gpus }}
# scoring on a CPU takes up to twice as long without these
- {name: OMP_WAIT_POLICY, value: PASSIVE}
- {name: MALLOC_ARENA_MAX, value: "1"}
- {name: MALLOC_MMAP_MAX_, value: "0"}
- {name: MALLOC_TRIM_THRESHOLD_, value: "4294967296"}
{{- end }}
{{- if .serve }}
- {name: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, value: uadray.serving.stages.proxy_answers.middlewares}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "1"}
- {name: RAY_SERVE_CONTROL_LOOP_INTERVAL_S, value: "0.5"}
{{- end }}
{{- include "uadray.storeEnv" $root }}
{{- with $root.Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Both the raylet and, on the head, the GCS; Ray answers this without the token. */ -}}
{{- define "uadray.health" -}}
httpGet: {path: /api/healthz, port: 52365}
timeoutSeconds: 5
periodSeconds: 5
{{- end }}

{{- /* (dict root serve train cache) -> volumes and mounts of a Ray container */ -}}
{{- define "uadray.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /var/cache/uadray}
{{- if and .serve .root.Values.secrets.endpointTokens }}
- {name: endpoint-tokens, mountPath: /etc/uadray/tokens, readOnly: true}
{{- end }}
{{- if .train }}
- {name: training, mountPath: /etc/uadray/training, readOnly: true}
{{- end }}
{{- end }}

{{- define "uadray.volumes" -}}
- {name: tmp, emptyDir: {}}
- {name: cache, emptyDir: {sizeLimit: {{ .cache }}}}
{{- if and .serve .root.Values.secrets.endpointTokens }}
- {name: endpoint-tokens, secret: {secretName: {{ .root.Values.secrets.endpointTokens }}, defaultMode: 0440}}
{{- end }}
{{- if .train }}
- {name: training, configMap: {name: {{ include "uadray.name" .root }}-training}}
{{- end }}
{{- end }}

{{- define "uadray.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - {name: {{ . }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* What gives the slides of drivers on this pod back: they end at SIGTERM, and Ray's shell around them does not. */ -}}
{{- define "uadray.stopDrivers" -}}
found() {
  for p in /proc/[0-9]*; do
    tr '\0' ' ' < $p/cmdline 2>/dev/null | grep -qE '/bin/uadray (screen|train) ' && echo "${p#/proc/}"
  done
}
kill -TERM $(found) 2>/dev/null
for i in $(seq 60); do [ -z "$(found)" ] && break; sleep 1; done
ray stop
{{- end }}

{{- /* seconds -> what takes a node out: nothing new comes to it, and once it has nothing to do its Ray ends. */ -}}
{{- define "uadray.drain" -}}
timeout 20 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the pod ends" --deadline-remaining-seconds {{ . }}
for i in $(seq {{ max 1 (sub . 20) }}); do grep -qx raylet /proc/[0-9]*/comm 2>/dev/null || break; sleep 1; done; ray stop
{{- end }}

{{- /* What is not kept of Ray's own series, and why: see deploy/monitoring/prometheus.yml, which says the same. */ -}}
{{- define "uadray.dropped" -}}
- sourceLabels: [__name__, operator]
  regex: ray_data_\w+;.+
  action: drop
- sourceLabels: [__name__]
  regex: ray_data_iter_\w+
  action: drop
- sourceLabels: [__name__]
  regex: ray_(grpc_server_req_process_time|operation_run_time|operation_queue_time|gcs_storage_operation_latency)_ms_bucket
  action: drop
- sourceLabels: [__name__]
  regex: ray_serve_(long_poll|event_loop)_\w+
  action: drop
- regex: otel_scope_\w+
  action: labeldrop
{{- end }}
