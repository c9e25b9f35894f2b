package linkcast.peers;

import java.io.IOException;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/** Answers each reading with the means of its stream, whose windows are in keyed state. */
final class WindowFunction extends KeyedProcessFunction<String, Reading, Means> {
    private transient ValueState<Windows> state;

    @Override
    public void open(OpenContext context) {
        state = getRuntimeContext().getState(new ValueStateDescriptor<>("windows", Windows.class));
    }

    @Override
    public void processElement(Reading reading, Context context, Collector<Means> out) throws IOException {
        Windows windows = state.value();
        if (windows == null) {
            windows = new Windows();
        }
        double[] mean = windows.add(reading.ts(), reading.latencyUs());
        state.update(windows);
        out.collect(new Means(reading.key(), reading.streamId(), reading.ts(), mean[0], mean[1], mean[2]));
    }
}
