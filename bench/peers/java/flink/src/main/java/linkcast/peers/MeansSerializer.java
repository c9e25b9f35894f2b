package linkcast.peers;

import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.kafka.clients.producer.ProducerRecord;

/** Means to record of a topic, under the key of the reading they answer; Kafka's partitioner does the rest. */
final class MeansSerializer implements KafkaRecordSerializationSchema<Means> {
    private static final long serialVersionUID = 1;

    private final String topic;

    MeansSerializer(String topic) {
        this.topic = topic;
    }

    @Override
    public ProducerRecord<byte[], byte[]> serialize(Means means, KafkaSinkContext context, Long timestamp) {
        return new ProducerRecord<>(topic, null, timestamp, means.key(), means.encode());
    }
}
