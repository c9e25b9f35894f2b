package linkcast.peers;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.CoreOptions;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.configuration.WebOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamUtils;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import sun.misc.Signal;

/** The window job of bench/peers on Flink: runs until SIGTERM, then exits with 0; with 1 if the job failed. */
public final class WindowJob {
    private WindowJob() {}

    public static void main(String[] args) throws Exception {
        Options options = Options.parse(args);
        CompletableFuture<Void> stop = new CompletableFuture<>();
        // Not a shutdown hook: after one, the exit status of a JVM that got SIGTERM is 143.
        Signal.handle(new Signal("TERM"), signal -> stop.complete(null));

        StreamExecutionEnvironment environment =
                StreamExecutionEnvironment.createLocalEnvironment(options.threads(), configuration(options));
        build(environment, options);
        JobClient job = environment.executeAsync(options.app());
        int status = CompletableFuture.anyOf(stop, job.getJobExecutionResult())
                .thenRun(() -> stop(job, options))
                .handle((nothing, error) -> report(error))
                .join();
        System.exit(status); // Flink's threads would keep the process
    }

    /** Ends the job at a savepoint, so that the next run repeats nothing. */
    private static void stop(JobClient job, Options options) {
        try {
            job.stopWithSavepoint(false, options.state().toUri().toString(), SavepointFormatType.NATIVE)
                    .join();
        } catch (CompletionException notAllTasksRun) {
            job.cancel().join(); // its latest checkpoint stays
        }
    }

    private static int report(Throwable error) {
        if (error != null) {
            error.printStackTrace();
        }
        return error == null ? 0 : 1;
    }

    private static void build(StreamExecutionEnvironment environment, Options options) {
        DataStream<Reading> readings = environment
                .fromSource(source(options), WatermarkStrategy.noWatermarks(), "in")
                .uid("in");
        byStream(readings, options.chained())
                .process(new WindowFunction())
                .uid("windows")
                .sinkTo(sink(options))
                .uid("out");
    }

    /**
     * Keys the readings by stream: with {@code keyBy}, as Flink's documentation does, which hands each one as bytes to
     * a second task, even where that has the same core. Chained is tuned by hand, with an experimental call: where one
     * subtask owns every key nothing need be exchanged, and source, windows and sink are one task and pass objects on.
     */
    private static KeyedStream<Reading, String> byStream(DataStream<Reading> readings, boolean chained) {
        return chained
                ? DataStreamUtils.reinterpretAsKeyedStream(readings, Reading::streamId)
                : readings.keyBy(Reading::streamId);
    }

    private static KafkaSource<Reading> source(Options options) {
        return KafkaSource.<Reading>builder()
                .setBootstrapServers(options.bootstrap())
                .setGroupId(options.app())
                .setTopics(options.in())
                .setStartingOffsets(OffsetsInitializer.earliest()) // a checkpoint's offsets go before these
                .setDeserializer(new ReadingDeserializer())
                .setProperty(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, "8192")
                .build();
    }

    private static KafkaSink<Means> sink(Options options) {
        Properties producer = new Properties();
        producer.put(ProducerConfig.LINGER_MS_CONFIG, "5");
        producer.put(ProducerConfig.BATCH_SIZE_CONFIG, String.valueOf(256 << 10));
        return KafkaSink.<Means>builder()
                .setBootstrapServers(options.bootstrap())
                .setKafkaProducerConfig(producer)
                .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
                .setRecordSerializer(new MeansSerializer(options.out()))
                .build();
    }

    private static Configuration configuration(Options options) throws IOException {
        Configuration configuration = new Configuration();
        configuration.set(PipelineOptions.OBJECT_REUSE, true);
        configuration.set(PipelineOptions.GENERIC_TYPES, false); // refuse what only Kryo could serialise
        configuration.set(PipelineOptions.AUTO_WATERMARK_INTERVAL, Duration.ZERO);
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY, "none"); // whoever started the process decides
        // The heap backend needs no managed memory, of which a local cluster would set 128 MB apart.
        configuration.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ZERO);
        String scratch = Files.createDirectories(options.state().resolve("tmp")).toString();
        configuration.set(CoreOptions.TMP_DIRS, scratch);
        configuration.set(WebOptions.TMP_DIR, scratch);
        checkpoint(configuration, options);
        return configuration;
    }

    private static void checkpoint(Configuration configuration, Options options) throws IOException {
        Path folder = options.state().resolve("checkpoints");
        configuration.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        configuration.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofSeconds(1));
        // Of the state only: what it gives to Kafka is at-least-once. One thread has no barriers to align; with two,
        // AT_LEAST_ONCE counted replayed readings twice in the windows after kill -9.
        configuration.set(CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE, CheckpointingMode.EXACTLY_ONCE);
        configuration.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        configuration.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, folder.toUri().toString());
        configuration.set(
                CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
                ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
        Optional<Path> latest = Checkpoints.latest(options.state());
        if (latest.isPresent()) {
            configuration.set(StateRecoveryOptions.SAVEPOINT_PATH, latest.get().toUri().toString());
            configuration.set(StateRecoveryOptions.RESTORE_MODE, RecoveryClaimMode.CLAIM);
        }
    }
}
