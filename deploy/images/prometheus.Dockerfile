FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
EXPOSE 9090
LABEL demo.recipe=$RECIPE
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
