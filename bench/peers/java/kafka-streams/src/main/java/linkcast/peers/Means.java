package linkcast.peers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.StreamWriteFeature;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;

/** One record of topic {@code out}: mean latency (µs) of a stream over 5, 15 and 60 minutes as of one event. */
record Means(String streamId, long ts, double mean5m, double mean15m, double mean60m) {
    private static final int BYTES_USUAL = 192;
    private static final JsonFactory JSON =
            JsonFactory.builder().enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER).build();

    /** Writes the record's value. */
    byte[] encode() {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(BYTES_USUAL);
        try (JsonGenerator json = JSON.createGenerator(bytes)) {
            json.writeStartObject();
            json.writeStringField("stream_id", streamId);
            json.writeNumberField("ts", ts);
            json.writeNumberField("mean_5m", mean5m);
            json.writeNumberField("mean_15m", mean15m);
            json.writeNumberField("mean_60m", mean60m);
            json.writeEndObject();
        } catch (IOException error) {
            throw new UncheckedIOException("memory cannot fail to be written", error);
        }
        return bytes.toByteArray();
    }
}
