FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
EXPOSE 9093
LABEL demo.recipe=$RECIPE
ENTRYPOINT ["prometheus-alertmanager", "--config.file=/etc/prometheus/alertmanager.yml", "--storage.path=/alertmanager", "--cluster.gossip-interval=200ms"]
