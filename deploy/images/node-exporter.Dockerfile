FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
EXPOSE 9100
LABEL demo.recipe=$RECIPE
ENTRYPOINT ["prometheus-node-exporter"]
