FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data
RUN mkdir -p /var/run/postgresql "$PGDATA" && chown -R postgres:postgres /var/lib/postgresql /var/run/postgresql && chmod 700 "$PGDATA"
USER postgres
RUN initdb --no-sync -A trust -U postgres -E UTF8 --locale=C.UTF-8 >/dev/null && \
    printf "listen_addresses = '*'\njit = off\nshared_buffers = 16MB\nfsync = off\n" >> "$PGDATA/postgresql.conf" && \
    printf 'host all all all trust\n' >> "$PGDATA/pg_hba.conf" && \
    echo 'CREATE DATABASE shop' | postgres --single -D "$PGDATA" postgres >/dev/null
EXPOSE 5432
STOPSIGNAL SIGINT
LABEL demo.recipe=$RECIPE
CMD ["postgres"]
