FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
ENV HOME=/var/lib/rabbitmq LANG=C.UTF-8 RABBITMQ_LOGS=-
RUN mkdir -p /etc/rabbitmq /var/lib/rabbitmq /var/log/rabbitmq && \
    echo '[rabbitmq_management].' > /etc/rabbitmq/enabled_plugins && \
    printf 'loopback_users = none\nlisteners.tcp.default = 5672\nmanagement.tcp.port = 15672\n' > /etc/rabbitmq/rabbitmq.conf
EXPOSE 4369 5671 5672 15671 15672 25672
LABEL demo.recipe=$RECIPE
CMD ["/usr/lib/rabbitmq/bin/rabbitmq-server"]
