# Enqueues a job for each number on standard input; says so after each.
require_relative "sidekiq_jobs"

STDOUT.sync = true
STDIN.each_line do |line|
  puts Record.perform_async(ARGV.fetch(0), Integer(line))
end
