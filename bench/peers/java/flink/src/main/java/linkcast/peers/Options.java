package linkcast.peers;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/**
 * The command line: where Kafka is, what to read and write, under which name, with what state and how many threads, and
 * whether source, windows and sink are chained, with no exchange by key between them.
 */
record Options(String bootstrap, String in, String out, String app, Path state, int threads, boolean chained) {
    private static final Set<String> NEEDED = Set.of("--bootstrap", "--in", "--out", "--app", "--state");
    private static final Map<String, String> DEFAULTS = Map.of("--threads", "1", "--chained", "false");
    private static final String USAGE = "usage: --bootstrap HOST:PORT --in TOPIC --out TOPIC --app ID --state DIR"
            + " [--threads N] [--chained true|false]";

    static Options parse(String[] args) {
        Map<String, String> given = new HashMap<>(DEFAULTS);
        for (int i = 0; i + 1 < args.length; i += 2) {
            given.put(args[i], args[i + 1]);
        }
        if (args.length % 2 != 0
                || !given.keySet().containsAll(NEEDED)
                || given.size() > NEEDED.size() + DEFAULTS.size()
                || !Set.of("true", "false").contains(given.get("--chained"))) {
            throw new IllegalArgumentException(USAGE);
        }
        return checked(new Options(
                given.get("--bootstrap"),
                given.get("--in"),
                given.get("--out"),
                given.get("--app"),
                Path.of(given.get("--state")).toAbsolutePath(),
                Integer.parseInt(given.get("--threads")),
                Boolean.parseBoolean(given.get("--chained"))));
    }

    private static Options checked(Options options) {
        if (options.chained && options.threads != 1) {
            throw new IllegalArgumentException("--chained true with " + options.threads + " threads: Flink's"
                    + " hash of a key is not Kafka's, so several must exchange. Leave one of the two out.");
        }
        return options;
    }
}
