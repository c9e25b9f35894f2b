package linkcast.peers;

import static org.apache.kafka.streams.StreamsConfig.consumerPrefix;
import static org.apache.kafka.streams.StreamsConfig.producerPrefix;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import sun.misc.Signal;

/** The window job of bench/peers on Kafka Streams: runs until SIGTERM, then exits with 0; with 1 if a thread failed. */
public final class WindowJob {
    private static final Duration CLOSE_MAX = Duration.ofSeconds(30);

    private WindowJob() {}

    public static void main(String[] args) {
        Options options = Options.parse(args);
        CompletableFuture<Integer> exit = new CompletableFuture<>();
        // Not a shutdown hook: after one, the exit status of a JVM that got SIGTERM is 143.
        Signal.handle(new Signal("TERM"), signal -> exit.complete(0));
        KafkaStreams streams = new KafkaStreams(topology(options), config(options));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            exit.complete(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        int status = exit.join();
        System.exit(streams.close(CLOSE_MAX) ? status : 1);
    }

    private static Topology topology(Options options) {
        Deserializer<Reading> reading = (topic, bytes) -> Reading.decode(bytes);
        Serializer<Means> means = (topic, value) -> value.encode();
        return new Topology()
                .addSource("in", new ByteArrayDeserializer(), reading, options.in())
                .addProcessor("windows", WindowProcessor::new, "in")
                .addStateStore(store(), "windows")
                .addSink("out", options.out(), new ByteArraySerializer(), means, "windows");
    }

    /** Logged to a changelog topic; the cache in front merges the writes to a stream between two commits into one. */
    private static StoreBuilder<KeyValueStore<String, byte[]>> store() {
        return Stores.keyValueStoreBuilder(
                        Stores.inMemoryKeyValueStore(WindowProcessor.STORE), Serdes.String(), Serdes.ByteArray())
                .withLoggingEnabled(Map.of())
                .withCachingEnabled();
    }

    private static Properties config(Options options) {
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, options.app());
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.bootstrap());
        config.put(StreamsConfig.STATE_DIR_CONFIG, options.state().toString());
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, options.threads());
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1_000);
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 128 << 20);
        // A whole poll: with the default of 1,000 a partition is paused and resumed for every thousand records.
        config.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 8_192);
        config.put(consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        config.put(consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 8_192);
        // A process that was killed comes back as itself, else its group would wait 45 s for the dead member. One
        // process has one state folder.
        config.put(
                consumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG),
                Integer.toHexString(options.state().hashCode()));
        config.put(producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 5);
        config.put(producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        return config;
    }
}
