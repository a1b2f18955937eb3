{{- define "cops.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "cops.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "cops.labels" -}}
{{ include "cops.selector" . }}
app.kubernetes.io/part-of: cops
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "cops.image" -}}
{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}-{{ .kind }}
{{- end }}

{{/* What every pod of ours has in common. */}}
{{- define "cops.pod" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "cops.restricted" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{- define "cops.postgres" -}}
{{- $one := .Values.postgres -}}
{{- $host := ternary (printf "%s-postgres" (include "cops.name" .)) $one.host $one.inCluster.enabled -}}
{{- $sslmode := ternary "disable" $one.sslmode $one.inCluster.enabled -}}
postgresql+psycopg2://{{ $one.user }}@{{ required "postgres.host is needed, or postgres.inCluster.enabled" $host }}:{{ $one.port }}/%s?sslmode={{ $sslmode }}
{{- end }}

{{- define "cops.secret" -}}
valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
{{- end }}

{{/* The environment of all processes of ours: where the others are, and the secrets that they ask for. */}}
{{- define "cops.environment" -}}
- name: MLFLOW_TRACKING_URI
  value: http://{{ include "cops.name" . }}-mlflow:5050
- name: MLFLOW_TRACKING_USERNAME
  {{- include "cops.secret" (dict "name" .Values.mlflow.secret "key" "username") | nindent 2 }}
- name: MLFLOW_TRACKING_PASSWORD
  {{- include "cops.secret" (dict "name" .Values.mlflow.secret "key" "password") | nindent 2 }}
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
{{- if .Values.s3.inCluster.enabled }}
- name: AWS_ENDPOINT_URL
  value: http://{{ include "cops.name" . }}-s3:8333
{{- else if .Values.s3.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ .Values.s3.endpoint }}
{{- end }}
- name: AWS_DEFAULT_REGION
  value: {{ .Values.s3.region }}
{{- if .Values.s3.secret }}
- name: AWS_ACCESS_KEY_ID
  {{- include "cops.secret" (dict "name" .Values.s3.secret "key" "AWS_ACCESS_KEY_ID") | nindent 2 }}
- name: AWS_SECRET_ACCESS_KEY
  {{- include "cops.secret" (dict "name" .Values.s3.secret "key" "AWS_SECRET_ACCESS_KEY") | nindent 2 }}
- name: AWS_EC2_METADATA_DISABLED
  value: "true"
{{- end }}
- name: PGPASSWORD
  {{- include "cops.secret" (dict "name" .Values.postgres.secret "key" "password") | nindent 2 }}
- name: COPS_STUDIES
  value: {{ printf (include "cops.postgres" .) "studies" }}
- name: COPS_STORE
  value: s3://{{ .Values.s3.bucket }}/scores
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
{{- end }}

{{- define "cops.scratch" -}}
{{/* Folders that a process may write to, its own root being read-only. */}}
- name: tmp
  emptyDir: {}
- name: home
  emptyDir: {}
{{- end }}
