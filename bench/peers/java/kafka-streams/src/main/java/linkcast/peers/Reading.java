package linkcast.peers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.StreamReadFeature;
import java.io.IOException;
import java.io.UncheckedIOException;

/** What the job needs of one event of topic {@code in}: whose it is, when (ms, event time), and its latency in µs. */
record Reading(String streamId, long ts, double latencyUs) {
    private static final JsonFactory JSON =
            JsonFactory.builder().enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER).build();

    /** Reads one JSON object; fields of other names are passed over. */
    static Reading decode(byte[] json) {
        String streamId = null;
        long ts = Long.MIN_VALUE;
        double latencyUs = Double.NaN;
        try (JsonParser parser = JSON.createParser(json)) {
            parser.nextToken();
            for (String field = parser.nextFieldName(); field != null; field = parser.nextFieldName()) {
                parser.nextToken();
                switch (field) {
                    case "stream_id" -> streamId = parser.getText();
                    case "ts" -> ts = parser.getLongValue();
                    case "latency_p99" -> latencyUs = parser.getDoubleValue();
                    default -> parser.skipChildren();
                }
            }
        } catch (IOException error) {
            throw new UncheckedIOException("not an event: " + new String(json), error);
        }
        if (streamId == null || ts == Long.MIN_VALUE || Double.isNaN(latencyUs)) {
            throw new IllegalArgumentException("stream_id, ts or latency_p99 is missing: " + new String(json));
        }
        return new Reading(streamId, ts, latencyUs);
    }
}
