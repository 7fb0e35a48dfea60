#!/bin/sh
# The configuration of a web server's first boot: its standard input becomes the page's heading.
set -eu
page=/var/www/html/index.html
heading=$(head -n 1 | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g')
[ -n "$heading" ] || { echo "the first line of the configuration is empty" >&2; exit 1; }
{
  echo '<!doctype html>'
  echo '<html lang="en">'
  echo '<meta charset="utf-8">'
  echo "<title>$heading</title>"
  echo "<h1>$heading</h1>"
} >"$page.new"
mv "$page.new" "$page"
