package linkcast.peers;

import java.util.Arrays;

/**
 * The state of one stream: an hour of 20 s panes and the running totals of three windows that end in the newest pane.
 *
 * <p>Public fields and no-argument constructor make it a POJO to Flink, which then copies and writes it without Kryo.
 */
public final class Windows {
    static final int[] PANES_OF = {15, 45, 180}; // 5, 15 and 60 minutes

    private static final long PANE_MS = 20_000;
    private static final int PANES = 180;

    public long newest; // pane of the latest reading, counted from the epoch
    public double[] paneSum = new double[PANES];
    public int[] paneCount = new int[PANES];
    public double[] sum = new double[PANES_OF.length];
    public int[] count = new int[PANES_OF.length];

    /** Counts a latency in its pane and returns the mean over each window that ends in that pane. */
    double[] add(long ts, double latencyUs) {
        long pane = Math.floorDiv(ts, PANE_MS);
        if (pane > newest) {
            advance(pane);
        }
        long age = newest - pane;
        if (age < PANES) {
            paneSum[slot(pane)] += latencyUs;
            paneCount[slot(pane)]++;
        }
        for (int window = 0; window < PANES_OF.length; window++) {
            if (age < PANES_OF[window]) {
                sum[window] += latencyUs;
                count[window]++;
            }
        }
        return age == 0 ? means() : meansOfLate(pane);
    }

    private void advance(long to) {
        for (int window = 0; window < PANES_OF.length; window++) {
            int span = PANES_OF[window];
            long last = Math.min(to - span, newest);
            for (long pane = Math.max(newest - span + 1, 0); pane <= last; pane++) {
                sum[window] -= paneSum[slot(pane)];
                count[window] -= paneCount[slot(pane)];
            }
        }
        for (long pane = Math.max(newest, to - PANES) + 1; pane <= to; pane++) {
            paneSum[slot(pane)] = 0;
            paneCount[slot(pane)] = 0;
        }
        newest = to;
    }

    private double[] means() {
        double[] means = new double[PANES_OF.length];
        Arrays.setAll(means, window -> sum[window] / count[window]);
        return means;
    }

    /** The totals end in the newest pane; for a reading behind it the panes are added up. */
    private double[] meansOfLate(long pane) {
        double[] means = new double[PANES_OF.length];
        for (int window = 0; window < PANES_OF.length; window++) {
            double total = 0;
            int readings = 0;
            long oldest = Math.max(pane - PANES_OF[window], newest - PANES) + 1;
            for (long each = Math.max(oldest, 0); each <= pane; each++) {
                total += paneSum[slot(each)];
                readings += paneCount[slot(each)];
            }
            means[window] = total / readings;
        }
        return means;
    }

    private static int slot(long pane) {
        return (int) (pane % PANES);
    }
}
