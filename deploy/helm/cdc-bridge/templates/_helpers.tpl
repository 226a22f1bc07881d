{{- define "cdc-bridge.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cdc-bridge.instance" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The bridges, without the pod of the job that attaches. */}}
{{- define "cdc-bridge.selector" -}}
{{ include "cdc-bridge.instance" . }}
app.kubernetes.io/component: bridge
{{- end -}}

{{- define "cdc-bridge.labels" -}}
{{ include "cdc-bridge.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "cdc-bridge.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The bridge ends 1.5 s after drain_s and shutdown_timeout_s, even if something hangs. */}}
{{- define "cdc-bridge.graceSeconds" -}}
{{- addf .Values.preStopSeconds .Values.settings.drain_s .Values.settings.shutdown_timeout_s 1.5 5 | ceil | int -}}
{{- end -}}

{{/* A variable that a secret holds: (list NAME SECRET). */}}
{{- define "cdc-bridge.secretVariable" -}}
{{- $secret := last . -}}
- name: {{ first . }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name }}
      key: {{ $secret.key }}
{{- end -}}

{{/* Settings as variables: those that follow from other values, and the user's. What is not text is JSON. */}}
{{- define "cdc-bridge.settings" -}}
{{- $settings := dict "host" "0.0.0.0" -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $settings "tls_certificate" "/etc/cdc-bridge-tls/tls.crt" -}}
{{- $_ := set $settings "tls_key" "/etc/cdc-bridge-tls/tls.key" -}}
{{- else -}}
{{- $_ := set $settings "behind_proxy" true -}}
{{- end -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $settings "metrics_host" "0.0.0.0" -}}
{{- $_ := set $settings "metrics_port" .Values.metrics.port -}}
{{- end -}}
{{- range $name, $value := mergeOverwrite $settings .Values.settings }}
- name: CDC_BRIDGE_{{ upper $name }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end -}}
{{- end -}}

{{- define "cdc-bridge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "cdc-bridge.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
