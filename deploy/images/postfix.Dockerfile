FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
COPY files/ /
RUN printf 'postfix:x:104:104::/var/spool/postfix:/bin/false\n' >> /etc/passwd && printf 'postfix:x:104:\npostdrop:x:105:\n' >> /etc/group && \
    sed -E 's/^((\S+\s+){4})y(\s)/\1n\3/' /usr/share/postfix/master.cf.dist > /etc/postfix/master.cf && \
    printf '587 inet n - n - - smtpd\n  -o smtpd_client_restrictions=permit_sasl_authenticated,reject\n' >> /etc/postfix/master.cf && \
    mkdir -p /var/spool/postfix /var/lib/postfix && chown postfix /var/lib/postfix && postfix check
EXPOSE 25 587
LABEL demo.recipe=$RECIPE
CMD ["postfix", "start-fg"]
