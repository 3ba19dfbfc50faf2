{{/* Names and labels that several templates share. */}}

{{- define "greenthread.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "greenthread.labels" -}}
app.kubernetes.io/part-of: greenthread
app.kubernetes.io/name: greenthread
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* By these the controller finds the agents; they never change. */}}
{{- define "greenthread.selector" -}}
app.kubernetes.io/part-of: greenthread
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "greenthread.controller" -}}{{ .Release.Name | trunc 50 }}-controller{{- end }}
{{- define "greenthread.agent" -}}{{ .Release.Name | trunc 50 }}-agent{{- end }}
{{- define "greenthread.uninstall" -}}{{ .Release.Name | trunc 50 }}-uninstall{{- end }}

{{- define "greenthread.huggingFaceSecret" -}}
{{ .Values.controller.huggingFaceSecret | default (printf "%s-huggingface" (.Release.Name | trunc 50)) }}
{{- end }}

{{/* Service account of fetch Jobs, and the ConfigMap in which they tell how far they are. */}}
{{- define "greenthread.fetch" -}}{{ .Release.Name | trunc 50 }}-fetch{{- end }}

{{/* Changes with the token, and tells nothing of it: a fetch that failed begins again. */}}
{{- define "greenthread.tokenVersion" -}}
{{- if .Values.controller.huggingFaceSecret -}}
{{- dig "metadata" "resourceVersion" "" (lookup "v1" "Secret" .Release.Namespace .Values.controller.huggingFaceSecret) -}}
{{- else if .Values.controller.huggingFaceToken -}}
{{- .Values.controller.huggingFaceToken | sha256sum | trunc 12 -}}
{{- end -}}
{{- end }}

{{- define "greenthread.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The container rules of Pod Security `restricted`. */}}
{{- define "greenthread.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}
