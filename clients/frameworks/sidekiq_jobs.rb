# What Sidekiq's processes run.
require "sidekiq"

redis = { url: ENV.fetch("REDIS_URL"), ssl_params: { ca_file: ENV.fetch("CA") } }
Sidekiq.configure_server { |config| config.redis = redis }
Sidekiq.configure_client { |config| config.redis = redis }

class Record
  include Sidekiq::Worker
  sidekiq_options retry: 3

  def perform(path, number)
    File.open(path, "a") { |file| file.write("#{number}\n") }
  end
end
