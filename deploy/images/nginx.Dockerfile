FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
RUN mkdir -p /etc/nginx/conf.d /var/log/nginx /var/lib/nginx /var/www/html && \
    printf 'daemon off;\nworker_processes 2;\npid /run/nginx.pid;\nerror_log stderr warn;\nevents { worker_connections 1024; }\nhttp {\n  access_log off;\n  include /etc/nginx/conf.d/*.conf;\n}\n' > /etc/nginx/nginx.conf && \
    printf 'server {\n  listen 80 default_server;\n  listen [::]:80 default_server;\n  location / { return 200 "nginx\\n"; }\n}\n' > /etc/nginx/conf.d/default.conf
EXPOSE 80
STOPSIGNAL SIGQUIT
LABEL demo.recipe=$RECIPE
CMD ["nginx"]
