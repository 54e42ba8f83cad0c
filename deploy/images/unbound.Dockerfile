FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
RUN mkdir -p /etc/unbound && \
    printf 'server:\n  interface: 0.0.0.0\n  interface: ::0\n  access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n  module-config: "iterator"\n  username: ""\n  chroot: ""\n  directory: "/etc/unbound"\n  pidfile: ""\n  use-syslog: no\n  do-daemonize: no\n  num-threads: 1\ninclude: "/etc/unbound/conf.d/*.conf"\n' > /etc/unbound/unbound.conf && mkdir /etc/unbound/conf.d
EXPOSE 53/udp 53/tcp
LABEL demo.recipe=$RECIPE
CMD ["unbound", "-d", "-c", "/etc/unbound/unbound.conf"]
