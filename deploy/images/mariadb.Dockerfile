FROM demo/base:1
ARG RECIPE
ADD rootfs.tar /
RUN mkdir -p /var/lib/mysql /run/mysqld && chown mysql:mysql /var/lib/mysql /run/mysqld && \
    printf '[mariadbd]\nuser = mysql\nbind-address = *\nskip-name-resolve\ninnodb_log_file_size = 8M\ninnodb_buffer_pool_size = 16M\ninit-file = /etc/mysql/init.sql\n' > /etc/mysql/my.cnf && \
    printf "CREATE DATABASE IF NOT EXISTS blog;\nCREATE USER IF NOT EXISTS 'blog'@'%%' IDENTIFIED BY '';\nGRANT ALL ON blog.* TO 'blog'@'%%';\n" > /etc/mysql/init.sql && \
    mariadb-install-db --user=mysql --skip-test-db --auth-root-authentication-method=normal >/dev/null
EXPOSE 3306
LABEL demo.recipe=$RECIPE
CMD ["mariadbd"]
