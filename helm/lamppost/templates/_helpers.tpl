{{/* Names and labels. A pod's name is its LAMPPOST_INSTANCE, of 40 characters at most. */}}
{{- define "lamppost.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := printf "%s-%s" .Release.Name $name -}}
{{- $full := ternary .Release.Name $both (or (contains $name .Release.Name) (gt (len $both) 16)) -}}
{{- $full = default $full .Values.fullnameOverride -}}
{{- if gt (len $full) 16 -}}
{{- fail (printf "The name %q is longer than 16 characters, and names of pods must fit 40: set fullnameOverride." $full) -}}
{{- end -}}
{{- $full -}}
{{- end }}

{{- define "lamppost.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "lamppost.labels" -}}
{{ include "lamppost.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lamppost
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* metadata of an object: (dict "root" $ "component" "api" "name" "more-of-the-name") */}}
{{- define "lamppost.metadata" -}}
name: {{ include "lamppost.name" .root }}{{ with default .component .name }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "lamppost.labels" . | nindent 2 }}
{{- end }}

{{- define "lamppost.image" -}}
{{- $image := .root.Values.image -}}
{{- $gpu := and (eq .component "detect") .root.Values.detect.gpu.enabled -}}
{{- $repository := ternary .root.Values.detect.gpu.repository $image.repository $gpu -}}
{{- $digest := ternary .root.Values.detect.gpu.digest $image.digest $gpu -}}
{{- if $digest -}}
{{ printf "%s@%s" $repository $digest }}
{{- else -}}
{{ printf "%s:%s" $repository (default .root.Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end }}

{{/* What has to be said before anything can run; each failure is one sentence. */}}
{{- define "lamppost.validate" -}}
{{- if eq .Values.mode "apart" -}}
{{- if not (dig "kafka" "servers" list .Values.settings) -}}{{- fail "Name the Kafka brokers: settings.kafka.servers (or set mode: together)." -}}{{- end -}}
{{- if not (dig "postgres" "host" "" .Values.settings) -}}{{- fail "Name the PostgreSQL server: settings.postgres.host." -}}{{- end -}}
{{- if not (dig "s3" "endpoint" "" .Values.settings) -}}{{- fail "Name the object store: settings.s3.endpoint." -}}{{- end -}}
{{- if not .Values.secrets.postgres.existingSecret -}}{{- fail "Name the Secret with the password of PostgreSQL: secrets.postgres.existingSecret." -}}{{- end -}}
{{- if not .Values.secrets.s3.existingSecret -}}{{- fail "Name the Secret with the keys of the object store: secrets.s3.existingSecret." -}}{{- end -}}
{{- if and (ne (dig "kafka" "sasl" "none" .Values.settings) "none") (not .Values.secrets.kafka.existingSecret) -}}{{- fail "Name the Secret with the password of Kafka: secrets.kafka.existingSecret." -}}{{- end -}}
{{- end -}}
{{- if and .Values.detect.autoscaling.enabled (not .Values.detect.autoscaling.prometheus) -}}{{- fail "KEDA asks Prometheus how detection fares: detect.autoscaling.prometheus." -}}{{- end -}}
{{- end }}

{{/* Whether a relay has anything to do. */}}
{{- define "lamppost.relays" -}}
{{- if or (dig "relay" "webhook_hosts" list .Values.settings) (dig "relay" "mqtt_host" "" .Values.settings) -}}true{{- end -}}
{{- end }}

{{- define "lamppost.internalKeySecret" -}}
{{- default (printf "%s-internal" (include "lamppost.name" .)) .Values.secrets.internalKey.existingSecret -}}
{{- end }}

{{/* The grace of a recorder: others take its cameras over, its spool is stored, both end. */}}
{{- define "lamppost.handover" -}}
{{- dig "ingest" "handover_s" 20.0 .Values.settings | ceil | int -}}
{{- end }}

{{- define "lamppost.spread" -}}
topologySpreadConstraints:
{{- range $key, $when := dict "kubernetes.io/hostname" .spread.hostname "topology.kubernetes.io/zone" .spread.zone }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels: {{- include "lamppost.selector" $ | nindent 8 }}
    {{- if $.deployment }}
    matchLabelKeys: [pod-template-hash]
    {{- end }}
{{- end }}
{{- end }}
