FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
COPY files/ /
RUN printf 'dovecot:x:106:106::/usr/lib/dovecot:/bin/false\ndovenull:x:107:107::/nonexistent:/bin/false\nvmail:x:1000:1000::/var/mail:/bin/false\n' >> /etc/passwd && \
    printf 'dovecot:x:106:\ndovenull:x:107:\nvmail:x:1000:\nmail:x:8:\n' >> /etc/group && \
    mkdir -p /var/vmail /run/dovecot && chown 1000:1000 /var/vmail
EXPOSE 143 24
LABEL demo.recipe=$RECIPE
CMD ["dovecot", "-F"]
