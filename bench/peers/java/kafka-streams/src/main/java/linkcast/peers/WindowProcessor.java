package linkcast.peers;

import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** Answers each reading with the means of its stream, whose windows are in the store. */
final class WindowProcessor implements Processor<byte[], Reading, byte[], Means> {
    static final String STORE = "windows";

    private ProcessorContext<byte[], Means> context;
    private KeyValueStore<String, byte[]> store;

    @Override
    public void init(ProcessorContext<byte[], Means> context) {
        this.context = context;
        store = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], Reading> record) {
        Reading reading = record.value();
        byte[] windows = store.get(reading.streamId());
        if (windows == null) {
            windows = Windows.empty();
        }
        double[] mean = Windows.add(windows, reading.ts(), reading.latencyUs());
        store.put(reading.streamId(), windows);
        context.forward(record.withValue(new Means(reading.streamId(), reading.ts(), mean[0], mean[1], mean[2])));
    }
}
