"""The values of the paper's Tables 1 to 3, by method and column; times on a Xeon Gold 6230."""

PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "table1": {
        "affine": {"dice": 46.452},
        "syn": {"dice": 57.506, "seconds": 2.260},
        "vm-lg": {"dice": 54.670},
        "vm-ncc": {"dice": 58.196},
        "vm-nmi": {"dice": 67.075, "seconds": 0.050},
        "ours-lg": {"dice": 56.599},
        "ours-ncc": {"dice": 61.702},
        "ours-nmi": {"dice": 70.569, "seconds": 0.059},
    },
    "table2": {
        "vm-lg": {"mse_percent": 2.825},
        "vm-ncc": {"mse_percent": 2.688},
        "vm-nmi": {"mse_percent": 2.315},
        "ours-lg": {"mse_percent": 2.650},
        "ours-ncc": {"mse_percent": 2.525},
        "ours-nmi": {"mse_percent": 2.162},
    },
    "table3": {
        "cyclegan": {"psnr": 24.030, "ssim": 0.9140},
        "ours-lg": {"psnr": 21.061, "ssim": 0.8492},
        "ours-ncc": {"psnr": 21.283, "ssim": 0.8723},
        "ours-nmi": {"psnr": 25.277, "ssim": 0.9397},
    },
}
