"""Last flows of uet-htsim in the cases of `tests.benchmarks.ultra_ethernet`, in microseconds, seeds 1, 2, ..."""

_FIGURES = {
    "permutation, fat tree 128, nscc, reps": "218.2 209.8 216.6 215.0 213.8 215.9 232.2 207.7 237.5 209.2",
    "permutation, fat tree 128, nscc, spray": (
        "251.7 243.8 236.5 280.9 248.2 233.8 243.3 217.6 277.2 216.9 257.6 217.3 226.5 247.9 239.8 309.5 "
        "248.0 267.1 253.9 250.5 222.1 246.5 242.9 221.6 256.9 288.9 248.2 232.5 241.8 221.8 255.0 217.6 "
        "294.9 250.2 237.8 257.9 244.7 244.7 217.3 230.1 222.2 258.3 229.0 231.7 253.7 216.9 237.6 252.0 "
        "236.9 239.8"
    ),
    "permutation, fat tree 128, receiver_credit, reps": ("211.6 211.2 216.6 212.7 213.3 208.6 217.4 212.6 210.7 207.3"),
    "permutation, fat tree 128, 4:1, nscc, reps": "739.5 743.8 738.4 740.8 751.3 695.3 752.3 693.5 722.5 768.8",
    "permutation, fat tree 128, 4:1, nscc, spray": "738.5 798.5 757.8 734.2 813.7 732.6 796.5 738.9 797.5 794.1",
    "permutation, fat tree 1,024, nscc, reps": "220.4 213.3 222.7 217.2 214.4 219.3 216.4 232.2 214.7 230.1",
    "permutation, fat tree 1,024, nscc, spray": "261.2 245.0 233.5 236.1 256.5 269.2 280.5 248.9 280.4 273.8 298.5",
    "permutation, leaf-spine 1,024, nscc, reps": "205.4 201.4 213.1 208.3 204.2 205.5 203.1 203.6 201.7 207.0",
    "permutation, leaf-spine 1,024, nscc, spray": "215.5 225.5 229.9 230.9 219.8 222.4 222.5 218.3 218.6 218.3",
    "permutation, leaf-spine 8,192, nscc, reps": "209.5",
    "incast 15:1, 2 MB, fat tree 16, nscc, reps": (
        "2468.3 2462.9 2466.7 2451.8 2460.1 2466.4 2458.7 2469.2 2482.7 2463.3"
    ),
    "incast 15:1, 2 MB, fat tree 16, receiver_credit, reps": (
        "2464.3 2463.8 2464.5 2464.4 2463.8 2463.3 2464.6 2464.1 2464.5 2464.2"
    ),
    "incast 127:1, 2 MB, fat tree 128, nscc, reps": (
        "21037.3 21031.3 21039.4 21033.5 21038.9 21029.7 21061.0 21044.4 21031.0 21027.9"
    ),
    "incast 127:1, 2 MB, fat tree 128, receiver_credit, reps": (
        "20889.4 20889.6 20888.5 20889.7 20890.9 20890.9 20889.7 20889.6 20889.5 20891.6"
    ),
    "incast 1,023:1, 100 kB, fat tree 1,024, nscc, reps": "10552.4 10582.8 10560.3 10557.5",
    "incast 1,023:1, 100 kB, fat tree 1,024, receiver_credit, reps": "8896.6 8900.9 8901.8 8897.4",
    "rings of 16, 1 MB, leaf-spine 64, nscc, reps": (
        "3083.8 3139.1 3030.1 3045.8 3148.2 3111.8 3060.1 2989.2 3067.9 3133.1"
    ),
}
LAST_FLOWS_US = {row: tuple(map(float, figures.split())) for row, figures in _FIGURES.items()}
"""By pattern, fabric, control and transport."""
