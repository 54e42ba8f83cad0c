FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
EXPOSE 6379
LABEL demo.recipe=$RECIPE
CMD ["redis-server", "--bind", "*", "-::*", "--protected-mode", "no", "--save", ""]
