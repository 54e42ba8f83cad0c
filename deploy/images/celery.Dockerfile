FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
COPY files/ /
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
LABEL demo.recipe=$RECIPE
CMD ["celery", "-A", "shop", "worker", "--concurrency=1", "--pool=solo", "--loglevel=warning"]
