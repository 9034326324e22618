{{/* Which credentials a process is given: what it does not need it does not have. */}}
{{- define "lamppost.needs" -}}
{{- $needs := dict
  "ingest" (list "internal" "kafka" "cameras")
  "spool" (list "kafka" "postgres" "s3")
  "detect" (list "internal" "kafka")
  "index" (list "kafka" "postgres" "s3")
  "retention" (list "kafka" "postgres" "s3")
  "api" (list "internal" "kafka" "postgres" "s3" "webhooks")
  "relay" (list "kafka" "postgres" "s3" "mqtt" "webhooks")
  "migrate" (list "kafka" "postgres" "s3")
  "together" (list "cameras" "mqtt" "webhooks")
-}}
{{- get $needs . | toJson -}}
{{- end }}

{{/* One line of environment; lists as JSON, numbers without exponents. */}}
{{- define "lamppost.variable" -}}
- name: {{ .name }}
{{- if kindIs "float64" .value }}
  value: {{ ternary (printf "%.0f" .value) (toString .value) (eq .value (floor .value)) | quote }}
{{- else if kindIs "slice" .value }}
  value: {{ toJson .value | quote }}
{{- else }}
  value: {{ toString .value | quote }}
{{- end }}
{{- end }}

{{/* Files with credentials, and the settings that name them: (dict "root" $ "needs" list) gives a
     dict of file name to (Secret, key, setting). */}}
{{- define "lamppost.files" -}}
{{- $secrets := .root.Values.secrets -}}
{{- $files := dict -}}
{{- range .needs -}}
{{- if eq . "internal" -}}
{{- $_ := set $files "internal.key" (dict "secret" (include "lamppost.internalKeySecret" $.root) "key" $secrets.internalKey.key "setting" "STORES__INTERNAL_KEY_FILE") -}}
{{- else if eq . "cameras" -}}
{{- with $secrets.camerasCa -}}{{- if .existingSecret -}}
{{- $_ := set $files "cameras.ca.pem" (dict "secret" .existingSecret "key" .key "setting" "INGEST__RTSPS_CA_FILE") -}}
{{- end -}}{{- end -}}
{{- else if eq . "webhooks" -}}
{{- with $secrets.webhookCa -}}{{- if .existingSecret -}}
{{- $_ := set $files "webhook.ca.pem" (dict "secret" .existingSecret "key" .key "setting" "RELAY__WEBHOOK_CA_FILE") -}}
{{- end -}}{{- end -}}
{{- else if eq . "s3" -}}
{{- with $secrets.s3 -}}{{- if .existingSecret -}}
{{- $_ := set $files "s3.access" (dict "secret" .existingSecret "key" .accessKey "setting" "S3__ACCESS_KEY_FILE") -}}
{{- $_ := set $files "s3.secret" (dict "secret" .existingSecret "key" .secretKey "setting" "S3__SECRET_KEY_FILE") -}}
{{- end -}}{{- end -}}
{{- else -}}
{{- $setting := ternary "RELAY__MQTT_PASSWORD_FILE" (printf "%s__PASSWORD_FILE" (upper .)) (eq . "mqtt") -}}
{{- with get $secrets . -}}{{- if .existingSecret -}}
{{- $_ := set $files (printf "%s.password" (index (splitList "__" (lower $setting)) 0 | replace "relay" "mqtt")) (dict "secret" .existingSecret "key" .key "setting" $setting) -}}
{{- end -}}{{- end -}}
{{- end -}}
{{- if has . (list "kafka" "postgres" "s3" "mqtt") -}}
{{- $ca := get $secrets (printf "%sCa" .) -}}
{{- $setting := ternary "RELAY__MQTT_CA_FILE" (printf "%s__CA_FILE" (upper .)) (eq . "mqtt") -}}
{{- if $ca.existingSecret -}}
{{- $_ := set $files (printf "%s.ca.pem" .) (dict "secret" $ca.existingSecret "key" $ca.key "setting" $setting) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $files -}}
{{- end }}

{{/* The environment of a process: (dict "root" $ "part" "ingest" "component" "recorder" "port" 9100) */}}
{{- define "lamppost.env" -}}
{{- $needs := include "lamppost.needs" .part | fromJsonArray -}}
{{- $together := eq .part "together" -}}
- name: LAMPPOST_INSTANCE
{{- if eq .part "migrate" }}
  value: migrate
{{- else }}
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
{{- if has .part (list "api" "together") }}
- name: LAMPPOST_API__HOST
  value: "0.0.0.0"
- name: LAMPPOST_API__PORT
  value: "8600"
{{- end }}
{{- if not (or $together (eq .part "migrate")) }}
- name: LAMPPOST_METRICS__HOST
  value: "0.0.0.0"
- name: LAMPPOST_METRICS__PORT
  value: {{ .port | quote }}
{{- end }}
{{- if has .part (list "ingest" "detect") }}
- name: LAMPPOST_INTERNAL__HOST
  value: "0.0.0.0"
- name: LAMPPOST_INTERNAL__PORT
  value: "8610"
{{- if eq .part "detect" }}
- name: LAMPPOST_INTERNAL__ADVERTISED
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- else }}
- name: LAMPPOST_INTERNAL__ADVERTISED
  value: $(LAMPPOST_INSTANCE).{{ include "lamppost.name" .root }}-recorder.{{ .root.Release.Namespace }}.svc
{{- end }}
{{- end }}
{{- if not $together }}
- name: LAMPPOST_STORES__BUS
  value: kafka
- name: LAMPPOST_STORES__DATABASE
  value: postgresql
- name: LAMPPOST_STORES__BLOBS
  value: s3
{{- end }}
{{- if has "cameras" $needs }}
- name: LAMPPOST_INGEST__SECRETS_DIR
  value: /etc/lamppost/cameras
{{- end }}
{{- if and (eq .part "detect") .root.Values.detect.gpu.enabled }}
- name: LAMPPOST_DETECT__ADAPTER
  value: yolo
- name: LAMPPOST_DETECT__DEVICE
  value: cuda:0
{{- end }}
{{- range $file, $from := include "lamppost.files" (dict "root" .root "needs" $needs) | fromJson }}
- name: LAMPPOST_{{ $from.setting }}
  value: /etc/lamppost/secrets/{{ $file }}
{{- end }}
{{- range $section, $keys := .root.Values.settings }}
{{- range $key, $value := $keys }}
{{- if not (kindIs "invalid" $value) }}
{{ include "lamppost.variable" (dict "name" (printf "LAMPPOST_%s__%s" (upper $section) (upper $key)) "value" $value) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A container: (dict "root" $ "part" "ingest" "component" "recorder" "args" list "resources" dict
     "port" 9100 "portName" "metrics" "probes" true "ports" list "state" "state" "lifecycle" dict) */}}
{{- define "lamppost.container" -}}
{{- $needs := include "lamppost.needs" .part | fromJsonArray -}}
- name: {{ .part }}
  image: {{ include "lamppost.image" . }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: {{ toJson .args }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  env: {{- include "lamppost.env" . | nindent 4 }}
  {{- if .portName }}
  ports:
    - name: {{ .portName }}
      containerPort: {{ .port }}
    {{- range $name, $port := .ports }}
    - name: {{ $name }}
      containerPort: {{ $port }}
    {{- end }}
  {{- range $probe, $path := dict "startupProbe" "/startupz" "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
  {{ $probe }}:
    httpGet:
      path: {{ $path }}
      port: {{ $.portName }}
    {{- toYaml (get $.root.Values.probes $probe) | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with .lifecycle }}
  lifecycle: {{- toYaml . | nindent 4 }}
  {{- end }}
  resources: {{- toYaml .resources | nindent 4 }}
  volumeMounts:
    - name: {{ .state }}
      mountPath: /var/lib/lamppost
    - name: tmp
      mountPath: /tmp
    {{- if include "lamppost.files" (dict "root" .root "needs" $needs) | fromJson }}
    - name: secrets-{{ .part }}
      mountPath: /etc/lamppost/secrets
      readOnly: true
    {{- end }}
    {{- if has "cameras" $needs }}
    - name: cameras
      mountPath: /etc/lamppost/cameras
      readOnly: true
    {{- end }}
{{- end }}

{{/* Volumes of the parts of a pod: (dict "root" $ "parts" (list "ingest" "spool") "state" bool) */}}
{{- define "lamppost.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .root.Values.tmpSize }}
{{- if .state }}
- name: state
  emptyDir:
    sizeLimit: {{ .root.Values.tmpSize }}
{{- end }}
{{- range $part := .parts }}
{{- $needs := include "lamppost.needs" $part | fromJsonArray }}
{{- $files := include "lamppost.files" (dict "root" $.root "needs" $needs) | fromJson }}
{{- if $files }}
- name: secrets-{{ $part }}
  projected:
    defaultMode: 0440
    sources:
    {{- range $file, $from := $files }}
      - secret:
          name: {{ $from.secret }}
          items:
            - key: {{ $from.key }}
              path: {{ $file }}
    {{- end }}
{{- end }}
{{- if has "cameras" $needs }}
- name: cameras
  {{- if $.root.Values.secrets.cameras.existingSecret }}
  secret:
    secretName: {{ $.root.Values.secrets.cameras.existingSecret }}
    defaultMode: 0440
  {{- else }}
  emptyDir:
    sizeLimit: 1Mi
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What every pod says: (dict "root" $ "component" "api" "values" .Values.api "priority" "serving"
     "deployment" true) */}}
{{- define "lamppost.podspec" -}}
serviceAccountName: {{ include "lamppost.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .priority .root.Values.priorityClasses.enabled }}
priorityClassName: {{ include "lamppost.name" .root }}-{{ .priority }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Hooks run before the chart's own account is there. */}}
{{- define "lamppost.serviceAccount" -}}
{{- $account := .root.Values.serviceAccount -}}
{{- if not $account.create -}}
{{- default "default" $account.name -}}
{{- else if .hook -}}
default
{{- else -}}
{{- default (include "lamppost.name" .root) $account.name -}}
{{- end -}}
{{- end }}

{{- define "lamppost.podmetadata" -}}
labels: {{- include "lamppost.labels" . | nindent 2 }}
{{- with .root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
