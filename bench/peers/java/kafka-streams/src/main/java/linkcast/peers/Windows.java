package linkcast.peers;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/**
 * The state of one stream: an hour of 20 s panes and the running totals of three windows that end in the newest pane.
 *
 * <p>It lives in the byte array that the store keeps, and is changed in place: a record costs neither an object nor a
 * copy of 2 KB. Layout: index of the newest pane, then a sum for each window and pane, then as many counts.
 */
final class Windows {
    static final int[] PANES_OF = {15, 45, 180}; // 5, 15 and 60 minutes

    private static final long PANE_MS = 20_000;
    private static final int PANES = 180;
    private static final int SUMS = Long.BYTES;
    private static final int SLOTS = PANES_OF.length + PANES;
    private static final int COUNTS = SUMS + SLOTS * Double.BYTES;
    private static final int BYTES = COUNTS + SLOTS * Integer.BYTES;
    private static final VarHandle LONG = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);
    private static final VarHandle DOUBLE = MethodHandles.byteArrayViewVarHandle(double[].class, ByteOrder.BIG_ENDIAN);
    private static final VarHandle INT = MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.BIG_ENDIAN);

    private Windows() {}

    /** Returns the state of a stream of which nothing was read. */
    static byte[] empty() {
        return new byte[BYTES];
    }

    /** Counts a latency in its pane and returns the mean over each window that ends in that pane. */
    static double[] add(byte[] state, long ts, double latencyUs) {
        long pane = Math.floorDiv(ts, PANE_MS);
        if (pane > newest(state)) {
            advance(state, pane);
        }
        long age = newest(state) - pane;
        if (age < PANES) {
            addTo(state, slot(pane), latencyUs, 1);
        }
        for (int window = 0; window < PANES_OF.length; window++) {
            if (age < PANES_OF[window]) {
                addTo(state, window, latencyUs, 1);
            }
        }
        return age == 0 ? means(state) : meansOfLate(state, pane);
    }

    private static void advance(byte[] state, long to) {
        long from = newest(state);
        for (int window = 0; window < PANES_OF.length; window++) {
            int span = PANES_OF[window];
            long last = Math.min(to - span, from);
            for (long pane = Math.max(from - span + 1, 0); pane <= last; pane++) {
                addTo(state, window, -sum(state, slot(pane)), -count(state, slot(pane)));
            }
        }
        for (long pane = Math.max(from, to - PANES) + 1; pane <= to; pane++) {
            set(state, slot(pane), 0.0, 0);
        }
        LONG.set(state, 0, to);
    }

    private static double[] means(byte[] state) {
        double[] means = new double[PANES_OF.length];
        for (int window = 0; window < means.length; window++) {
            means[window] = sum(state, window) / count(state, window);
        }
        return means;
    }

    /** The totals end in the newest pane; for an event behind it (a replay, say) the panes are added up. */
    private static double[] meansOfLate(byte[] state, long pane) {
        double[] means = new double[PANES_OF.length];
        for (int window = 0; window < means.length; window++) {
            double sum = 0;
            int count = 0;
            long oldest = Math.max(pane - PANES_OF[window], newest(state) - PANES) + 1;
            for (long each = Math.max(oldest, 0); each <= pane; each++) {
                sum += sum(state, slot(each));
                count += count(state, slot(each));
            }
            means[window] = sum / count;
        }
        return means;
    }

    private static long newest(byte[] state) {
        return (long) LONG.get(state, 0);
    }

    private static int slot(long pane) {
        return PANES_OF.length + (int) (pane % PANES);
    }

    private static double sum(byte[] state, int slot) {
        return (double) DOUBLE.get(state, SUMS + slot * Double.BYTES);
    }

    private static int count(byte[] state, int slot) {
        return (int) INT.get(state, COUNTS + slot * Integer.BYTES);
    }

    private static void addTo(byte[] state, int slot, double sum, int count) {
        set(state, slot, sum(state, slot) + sum, count(state, slot) + count);
    }

    private static void set(byte[] state, int slot, double sum, int count) {
        DOUBLE.set(state, SUMS + slot * Double.BYTES, sum);
        INT.set(state, COUNTS + slot * Integer.BYTES, count);
    }
}
