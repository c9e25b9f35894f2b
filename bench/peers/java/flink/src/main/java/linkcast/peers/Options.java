package linkcast.peers;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/** The command line: where Kafka is, what to read and write, under which name, with what state and how many threads. */
record Options(String bootstrap, String in, String out, String app, Path state, int threads) {
    private static final Set<String> NEEDED = Set.of("--bootstrap", "--in", "--out", "--app", "--state");
    private static final String USAGE =
            "usage: --bootstrap HOST:PORT --in TOPIC --out TOPIC --app ID --state DIR [--threads N]";

    static Options parse(String[] args) {
        Map<String, String> given = new HashMap<>(Map.of("--threads", "1"));
        for (int i = 0; i + 1 < args.length; i += 2) {
            given.put(args[i], args[i + 1]);
        }
        if (args.length % 2 != 0 || !given.keySet().containsAll(NEEDED) || given.size() > NEEDED.size() + 1) {
            throw new IllegalArgumentException(USAGE);
        }
        return new Options(
                given.get("--bootstrap"),
                given.get("--in"),
                given.get("--out"),
                given.get("--app"),
                Path.of(given.get("--state")).toAbsolutePath(),
                Integer.parseInt(given.get("--threads")));
    }
}
