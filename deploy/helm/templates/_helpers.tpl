{{- define "indomain.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- define "indomain.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What picks the pods of one component: (dict "root" $ "component" "gateway") */}}
{{- define "indomain.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image by its digest or, without one, by its tag: (dict "image" .Values.triton.image "tag" "the default tag") */}}
{{- define "indomain.image" -}}
{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .tag }}{{ end }}
{{- end }}

{{/* Addresses of all Triton servers that there may come to be: the gateway leaves those out that do not answer. */}}
{{- define "indomain.tritonAddresses" -}}
{{- $count := .Values.triton.replicas -}}
{{- if .Values.triton.autoscaling.enabled }}{{ $count = max .Values.triton.replicas .Values.triton.autoscaling.maxReplicas }}{{ end -}}
{{- $addresses := list -}}
{{- range $n := until (int $count) -}}
{{- $addresses = append $addresses (printf "%s-triton-%d.%s-triton.%s.svc:8001" (include "indomain.name" $) $n (include "indomain.name" $) $.Release.Namespace) -}}
{{- end -}}
{{ join "," $addresses }}
{{- end }}

{{- define "indomain.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "indomain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "indomain.models" -}}
name: models
persistentVolumeClaim:
  claimName: {{ required "modelRepository.claim: name the PersistentVolumeClaim that holds the bundles" .Values.modelRepository.claim }}
  readOnly: true
{{- end }}

{{- define "indomain.modelsMount" -}}
name: models
mountPath: /models
readOnly: true
{{- with .Values.modelRepository.subPath }}
subPath: {{ . }}
{{- end }}
{{- end }}
