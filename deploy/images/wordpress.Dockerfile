FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
COPY files/ /
RUN for m in mpm_prefork authz_core dir; do echo "LoadModule ${m}_module /usr/lib/apache2/modules/mod_$m.so"; done > /etc/apache2/modules.conf && \
    mkdir -p /var/log/apache2 /etc/php/8.2/apache2 /var/lib/php/sessions && chmod 1777 /var/lib/php/sessions && \
    for e in mysqlnd mysqli igbinary redis; do echo "extension=$e.so"; done > /etc/php/8.2/apache2/php.ini && \
    printf 'log_errors = On\nerror_log = /dev/stderr\ndisplay_errors = Off\n' >> /etc/php/8.2/apache2/php.ini
EXPOSE 80
STOPSIGNAL SIGWINCH
LABEL demo.recipe=$RECIPE
CMD ["apache2", "-DFOREGROUND"]
