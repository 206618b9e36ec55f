{{- /* (dict root groups minReplicas serve train job) -> spec of a RayCluster */ -}}
{{- define "uadray.cluster" -}}
{{- $root := .root -}}{{- $values := .root.Values -}}{{- $all := . -}}
rayVersion: {{ $values.rayVersion | quote }}
authOptions:
  mode: token
  {{- with $values.secrets.rayToken }}
  secretName: {{ . }}
  {{- end }}
{{- if and $values.gcs.redisAddress (not .job) }}
gcsFaultToleranceOptions:
  redisAddress: {{ $values.gcs.redisAddress | quote }}
  {{- with $values.gcs.externalStorageNamespace }}
  externalStorageNamespace: {{ . | quote }}
  {{- end }}
  {{- with $values.secrets.redis }}
  redisPassword:
    valueFrom:
      secretKeyRef: {name: {{ . }}, key: password}
  {{- end }}
{{- end }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ $values.autoscaler.idleSeconds }}
  upscalingMode: {{ $values.autoscaler.upscalingMode }}
  securityContext:
    {{- include "uadray.containerSecurity" $root | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
  env:
    - {name: HOME, value: /tmp}
  resources:
    {{- toYaml $values.autoscaler.resources | nindent 4 }}
headGroupSpec:
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: "0"   # work is for the workers
  template:
    metadata:
      labels:
        {{- include "uadray.labels" $root | nindent 8 }}
      {{- with $values.head.annotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "uadray.serviceAccount" $root }}
      automountServiceAccountToken: true   # for the autoscaler
      {{- include "uadray.pullSecrets" $root | nindent 6 }}
      terminationGracePeriodSeconds: 90
      securityContext:
        {{- include "uadray.podSecurity" $root | nindent 8 }}
      {{- with $values.head.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.head.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: ray-head
          image: {{ include "uadray.image" (list $root 0) }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          securityContext:
            {{- include "uadray.containerSecurity" $root | nindent 12 }}
          ports:
            - {name: gcs-server, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: client, containerPort: 10001}
            - {name: metrics, containerPort: 8080}
            - {name: as-metrics, containerPort: 44217}
            - {name: dash-metrics, containerPort: 44227}
            {{- if .serve }}
            - {name: serve, containerPort: {{ $values.serve.port }}}
            {{- end }}
          env:
            {{- include "uadray.rayEnv" (dict "root" $root "gpus" 0 "serve" .serve) | nindent 12 }}
          {{- include "uadray.envFrom" $root | nindent 10 }}
          resources:
            requests: {cpu: {{ $values.head.cpus | quote }}, memory: {{ $values.head.memory }}}
            limits: {cpu: {{ $values.head.cpus | quote }}, memory: {{ $values.head.memory }}}
          startupProbe:
            {{- include "uadray.health" $root | nindent 12 }}
            failureThreshold: 36
          livenessProbe:
            {{- include "uadray.health" $root | nindent 12 }}
            failureThreshold: 24
          readinessProbe:
            {{- include "uadray.health" $root | nindent 12 }}
            failureThreshold: 6
          lifecycle:
            preStop:
              exec:
                command:
                  - /bin/bash
                  - -c
                  - |
                    {{- include "uadray.stopDrivers" $root | nindent 20 }}
          volumeMounts:
            {{- include "uadray.mounts" $all | nindent 12 }}
      volumes:
        {{- include "uadray.volumes" (merge (dict "cache" "20Gi") $all) | nindent 8 }}
workerGroupSpecs:
{{- range $name := .groups }}
{{- $group := required (printf "groups.%s: there is no such group" $name) (get $values.groups $name) }}
{{- $least := max (int $group.minReplicas) (int ($all.minReplicas | default 0)) }}
{{- $notice := int (ternary $values.spot.noticeSeconds 90 $group.spot) }}
  - groupName: {{ $name }}
    replicas: {{ $least }}
    minReplicas: {{ $least }}
    maxReplicas: {{ max (int $group.maxReplicas) $least }}
    rayStartParams: {}
    template:
      metadata:
        labels:
          {{- include "uadray.labels" $root | nindent 10 }}
          {{- if $all.serve }}
          app.kubernetes.io/component: serve-worker
          {{- end }}
      spec:
        serviceAccountName: {{ include "uadray.serviceAccount" $root }}
        automountServiceAccountToken: false
        {{- include "uadray.pullSecrets" $root | nindent 8 }}
        terminationGracePeriodSeconds: {{ $notice }}
        securityContext:
          {{- include "uadray.podSecurity" $root | nindent 10 }}
        {{- with merge (dict) $group.nodeSelector (ternary $values.spot.nodeSelector (dict) $group.spot) }}
        nodeSelector:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with concat $group.tolerations (ternary $values.spot.tolerations (list) $group.spot) }}
        tolerations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        containers:
          - name: ray-worker
            image: {{ include "uadray.image" (list $root $group.gpus) }}
            imagePullPolicy: {{ $values.image.pullPolicy }}
            securityContext:
              {{- include "uadray.containerSecurity" $root | nindent 14 }}
            ports:
              - {name: metrics, containerPort: 8080}
              {{- if $all.serve }}
              - {name: serve, containerPort: {{ $values.serve.port }}}
              {{- end }}
            env:
              {{- include "uadray.rayEnv" (dict "root" $root "gpus" $group.gpus "serve" $all.serve) | nindent 14 }}
              {{- /* of what the volume holds, weights and files that are being written need some */}}
              - {name: UADRAY_CACHE_BYTES, value: {{ $group.cache | replace "Gi" "" | int64 | mul 858993459 | quote }}}
            {{- include "uadray.envFrom" $root | nindent 12 }}
            resources:
              requests:
                cpu: {{ $group.cpus | quote }}
                memory: {{ $group.memory }}
                ephemeral-storage: {{ $group.cache }}
                {{- if $group.gpus }}
                nvidia.com/gpu: {{ $group.gpus | quote }}
                {{- end }}
              limits:
                cpu: {{ $group.cpus | quote }}
                memory: {{ $group.memory }}
                {{- if $group.gpus }}
                nvidia.com/gpu: {{ $group.gpus | quote }}
                {{- end }}
            startupProbe:
              {{- include "uadray.health" $root | nindent 14 }}
              failureThreshold: 36
            livenessProbe:
              {{- include "uadray.health" $root | nindent 14 }}
              failureThreshold: 24
            readinessProbe:
              {{- if $all.serve }}
              # ready is where a proxy answers: KubeRay sends no request elsewhere
              httpGet: {path: /-/healthz, port: {{ $values.serve.port }}}
              timeoutSeconds: 2
              periodSeconds: 5
              failureThreshold: 1
              {{- else }}
              {{- include "uadray.health" $root | nindent 14 }}
              failureThreshold: 6
              {{- end }}
            lifecycle:
              preStop:
                exec:
                  command:
                    - /bin/bash
                    - -c
                    - |
                      {{- include "uadray.drain" (sub $notice 15) | nindent 22 }}
            volumeMounts:
              {{- include "uadray.mounts" $all | nindent 14 }}
        volumes:
          {{- include "uadray.volumes" (merge (dict "cache" $group.cache) $all) | nindent 10 }}
{{- end }}
{{- end }}
