{{- define "uadray.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* (list root what) -> the release's name, and what of it this is unless the name says so */ -}}
{{- define "uadray.nameOf" -}}
{{- $name := include "uadray.name" (index . 0) -}}
{{- if hasSuffix (index . 1) $name }}{{ $name }}{{ else }}{{ $name }}-{{ index . 1 }}{{ end -}}
{{- end }}

{{- define "uadray.labels" -}}
app.kubernetes.io/part-of: uadray
app.kubernetes.io/instance: {{ include "uadray.name" . }}
{{- end }}

{{- define "uadray.metadata" -}}
{{- include "uadray.labels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "uadray.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "uadray.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- /* (list root gpus) -> the reference of the image */ -}}
{{- define "uadray.image" -}}
{{- $root := index . 0 -}}{{- $cuda := gt (int (index . 1)) 0 -}}
{{- $image := $root.Values.image -}}
{{- $repository := $image.repository -}}{{- $digest := $image.digest -}}
{{- $tag := $image.tag | default $root.Chart.AppVersion -}}
{{- if $cuda -}}
{{- $repository = $root.Values.cudaImage.repository | default $repository -}}
{{- $tag = $root.Values.cudaImage.tag | default (printf "%s-cuda" $tag) -}}
{{- $digest = $root.Values.cudaImage.digest -}}
{{- end -}}
{{- if $digest }}{{ $repository }}@{{ $digest }}{{ else }}{{ $repository }}:{{ $tag }}{{ end -}}
{{- end }}
