package linkcast.peers;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Optional;
import java.util.stream.Stream;

/** The checkpoints and savepoints of former runs in the job's folder, each a folder with a file {@code _metadata}. */
final class Checkpoints {
    private Checkpoints() {}

    /** Returns the newest complete one: Flink gives {@code _metadata} its name once all else is written. */
    static Optional<Path> latest(Path folder) throws IOException {
        Files.createDirectories(folder);
        try (Stream<Path> files = Files.walk(folder)) {
            return files.filter(file -> file.endsWith("_metadata"))
                    .max(Comparator.comparingLong(file -> file.toFile().lastModified()))
                    .map(Path::getParent);
        }
    }
}
