{{- /* (dict root retries keepSeconds): what ends a cluster is no reason to give up, and the same command goes on */ -}}
{{- define "uadray.job" -}}
submissionMode: K8sJobMode
submitterConfig:
  backoffLimit: 2
submitterPodTemplate:
  metadata:
    labels:
      {{- include "uadray.labels" .root | nindent 6 }}
  spec:
    restartPolicy: Never
    automountServiceAccountToken: false
    {{- include "uadray.pullSecrets" .root | nindent 4 }}
    securityContext:
      {{- include "uadray.podSecurity" .root | nindent 6 }}
    containers:
      - name: ray-job-submitter
        image: {{ include "uadray.image" (list .root 0) }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        securityContext:
          {{- include "uadray.containerSecurity" .root | nindent 10 }}
        env:
          - {name: HOME, value: /tmp}
        resources:
          requests: {cpu: 200m, memory: 256Mi}
          limits: {cpu: "1", memory: 1Gi}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
    volumes:
      - {name: tmp, emptyDir: {}}
backoffLimit: {{ .retries }}
shutdownAfterJobFinishes: true
ttlSecondsAfterFinished: {{ .keepSeconds }}
{{- end }}
