<?php // posts in the database, visits in the cache
$db = new mysqli(getenv('WORDPRESS_DB_HOST'), 'blog', '', 'blog');
$posts = $db->query('SELECT COUNT(*) FROM wp_posts')->fetch_row()[0];
$cache = new Redis();
$cache->connect(getenv('WP_REDIS_HOST'), 6379, 2);
printf("ok posts=%d visits=%d\n", $posts, $cache->incr('visits'));
