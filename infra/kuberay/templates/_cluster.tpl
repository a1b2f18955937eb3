{{/* The spec of a RayCluster, for one that stays and for that of a sweep. KubeRay adds to Ray's
pods their probes and /dev/shm. */}}
{{- define "cops.cluster" -}}
{{- $root := .root -}}
{{- $fixed := and .root.Values.kueue.queue (not .root.Values.kueue.elastic) -}}
rayVersion: {{ .root.Values.ray.version }}
authOptions:
  mode: token
  secretName: {{ .root.Values.ray.token }}
enableInTreeAutoscaling: {{ not $fixed }}
{{- if not $fixed }}
autoscalerOptions:
  version: v2
  upscalingMode: Default
  idleTimeoutSeconds: {{ .root.Values.ray.idleSeconds }}
  securityContext:
    {{- include "cops.restricted" .root | nindent 4 }}
  resources:
    requests: {cpu: 500m, memory: 512Mi}
    limits: {memory: 1Gi}
{{- end }}
headGroupSpec:
  serviceType: ClusterIP
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: "0"
  template:
    metadata:
      labels:
        {{- include "cops.selector" (dict "root" .root "part" "ray") | nindent 8 }}
      annotations:
        cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    spec:
      {{- include "cops.pod" . | nindent 6 }}
      serviceAccountName: {{ include "cops.name" .root }}-ray
      restartPolicy: Never # a pod is one Ray node: a new one comes in its place
      {{- with .root.Values.ray.head.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.ray.head.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: ray-head
          image: {{ include "cops.image" (dict "root" .root "kind" "cpu") }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          ports:
            - {name: gcs, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: metrics, containerPort: 8080}
          env:
            {{- include "cops.environment" .root | nindent 12 }}
          resources:
            {{- toYaml .root.Values.ray.head.resources | nindent 12 }}
          securityContext:
            {{- include "cops.restricted" .root | nindent 12 }}
          {{- if or .sweep .root.Values.ray.dataClaim }}
          volumeMounts:
            {{- with .root.Values.ray.dataClaim }}
            - {name: data, mountPath: /data, readOnly: true}
            {{- end }}
            {{- with .sweep }}
            - {name: sweep, mountPath: /etc/cops/sweep, readOnly: true}
            {{- end }}
      volumes:
        {{- with .root.Values.ray.dataClaim }}
        - name: data
          persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
        {{- end }}
        {{- with .sweep }}
        - name: sweep
          configMap: {name: {{ . }}}
        {{- end }}
          {{- end }}
workerGroupSpecs:
  {{- range .root.Values.ray.groups }}
  - groupName: {{ .name }}
    replicas: {{ ternary .max .min (not (empty $fixed)) }}
    minReplicas: {{ .min }}
    maxReplicas: {{ .max }}
    rayStartParams: {}
    template:
      metadata:
        labels:
          {{- include "cops.selector" (dict "root" $root "part" "ray") | nindent 10 }}
      spec:
        {{- include "cops.pod" (dict "root" $root) | nindent 8 }}
        serviceAccountName: {{ include "cops.name" $root }}-ray
        automountServiceAccountToken: false
        restartPolicy: Never
        terminationGracePeriodSeconds: 25 # clouds tell a spot machine half a minute before it goes
        {{- with .nodeSelector }}
        nodeSelector:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with .tolerations }}
        tolerations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        containers:
          - name: ray-worker
            image: {{ include "cops.image" (dict "root" $root "kind" (ternary "cuda" "cpu" (gt (int .gpus) 0))) }}
            imagePullPolicy: {{ $root.Values.image.pullPolicy }}
            env:
              {{- include "cops.environment" $root | nindent 14 }}
            resources:
              requests:
                {{- toYaml .resources.requests | nindent 16 }}
                {{- if .gpus }}
                nvidia.com/gpu: {{ .gpus | quote }}
                {{- end }}
              limits:
                {{- toYaml .resources.limits | nindent 16 }}
                {{- if .gpus }}
                nvidia.com/gpu: {{ .gpus | quote }}
                {{- end }}
            securityContext:
              {{- include "cops.restricted" $root | nindent 14 }}
            ports:
              - {name: metrics, containerPort: 8080}
            {{- with $root.Values.ray.dataClaim }}
            volumeMounts:
              - {name: data, mountPath: /data, readOnly: true}
        volumes:
          - name: data
            persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
            {{- end }}
  {{- end }}
{{- end }}

{{/* Labels and annotations by which Kueue knows a cluster or a sweep. */}}
{{- define "cops.queue.labels" -}}
{{- if .Values.kueue.queue }}
kueue.x-k8s.io/queue-name: {{ .Values.kueue.queue }}
{{- with .Values.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "cops.queue.annotations" -}}
{{- if and .Values.kueue.queue .Values.kueue.elastic }}
annotations:
  kueue.x-k8s.io/elastic-job: "true"
{{- end }}
{{- end }}
