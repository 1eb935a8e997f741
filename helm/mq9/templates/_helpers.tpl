{{/* Names. */}}
{{- define "mq9.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "mq9.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "mq9.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "mq9.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "mq9.broker" -}}
{{ include "mq9.fullname" . }}-broker
{{- end }}

{{- define "mq9.meta" -}}
{{ include "mq9.fullname" . }}-meta
{{- end }}

{{- define "mq9.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "mq9.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "mq9.authSecret" -}}
{{- default (printf "%s-auth" (include "mq9.fullname" .)) .Values.auth.existingSecret }}
{{- end }}

{{- define "mq9.clusterSecret" -}}
{{- default (printf "%s-cluster" (include "mq9.fullname" .)) .Values.cluster.existingSecret }}
{{- end }}

{{- define "mq9.isCluster" -}}
{{- if eq .Values.mode "cluster" }}true{{ end }}
{{- end }}

{{- define "mq9.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* Labels: of everything; and those that select the pods of one role: (dict "root" $ "component" "broker"). */}}
{{- define "mq9.selector" -}}
app.kubernetes.io/name: {{ include "mq9.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "mq9.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mq9
{{ include "mq9.selector" . }}
{{- end }}

{{/* Where the nodes are: pods by name, through the headless Services. */}}
{{- define "mq9.brokerDomain" -}}
{{ include "mq9.broker" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "mq9.metaDomain" -}}
{{ include "mq9.meta" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "mq9.metaMembers" -}}
{{- $members := list }}
{{- range $number := until (int .Values.meta.replicas) }}
{{- $pod := printf "%s-%d" (include "mq9.meta" $) $number }}
{{- $members = append $members (printf "%s=%s.%s" $pod $pod (include "mq9.metaDomain" $)) }}
{{- end }}
{{- join "," $members }}
{{- end }}

{{- define "mq9.metaAddresses" -}}
{{- $addresses := list }}
{{- range $number := until (int .Values.meta.replicas) }}
{{- $addresses = append $addresses (printf "%s-%d.%s:9323" (include "mq9.meta" $) $number (include "mq9.metaDomain" $)) }}
{{- end }}
{{- join "," $addresses }}
{{- end }}

{{/* Settings of values as environment: (dict "prefix" "MQ9_" "settings" {...}). */}}
{{- define "mq9.settings" -}}
{{- range $name, $value := .settings }}
- name: {{ $.prefix }}{{ upper $name }}
  value: {{ if kindIs "float64" $value }}{{ if eq (floor $value) $value }}{{ int64 $value | quote }}{{ else }}{{ $value | quote }}{{ end }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* What all containers may and may not do. */}}
{{- define "mq9.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "mq9.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What the pods of both roles have in common: (dict "root" $ "component" "broker" "values" .Values.broker). */}}
{{- define "mq9.podSpec" -}}
serviceAccountName: {{ include "mq9.serviceAccount" .root }}
automountServiceAccountToken: false
# Else Kubernetes sets MQ9_PORT and others, from the names of Services, and the settings would take them for theirs.
enableServiceLinks: false
securityContext:
  {{- include "mq9.podSecurity" .root | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if ne .values.antiAffinity "none" }}
affinity:
  podAntiAffinity:
    {{- if eq .values.antiAffinity "hard" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "mq9.selector" . | nindent 12 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "mq9.selector" . | nindent 14 }}
    {{- end }}
{{- end }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range .values.topologySpreadConstraints }}
  - {{- toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "mq9.selector" $ | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* The volume of the data: (dict "root" $ "component" ... "values" ...); in a StatefulSet's spec. */}}
{{- define "mq9.claim" -}}
persistentVolumeClaimRetentionPolicy:
  whenDeleted: Retain
  whenScaled: Retain
volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      name: data
      labels:
        {{- include "mq9.selector" . | nindent 8 }}
      {{- with .values.persistence.annotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .values.persistence.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ .values.persistence.size }}
{{- end }}

{{/* What every pod may reach. */}}
{{- define "mq9.egressBase" -}}
# Names, from whoever answers for them here.
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
{{- end }}
